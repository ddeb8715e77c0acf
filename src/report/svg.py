"""Charts as SVG text: data in, text out. Colours come from the page's style, so that dark mode works.

Every chart has a viewBox and no fixed size. Series take the CSS classes s0, s1, ...; all text is escaped.
"""

import math
from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 12, 12, 40
SERIES_COLOURS = 8  # s0 to s7 of the page's style; more series take them again

Point = tuple[float, float]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number_text(value: float) -> str:
    """A number for an axis or a table, short."""
    return f"{value:.4g}"


def line_chart(
    series: Sequence[tuple[str, Sequence[Point]]],
    *,
    title: str,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    keys: Sequence[int] | None = None,
    whole_x: bool = False,
) -> str:
    """Lines over a common x axis. Points that are not finite are left out; a single point is a dot.

    Args:
        series: (name, points) of each line.
        title: what is shown, for a screen reader.
        x_label: under the axis.
        y_range: limits of the y axis; from 0 (or the lowest value) to the highest by default.
        x_range: limits of the x axis; those of the points by default.
        keys: number of each series for a page's filter (`data-class`); none by default.
    """
    series = [
        (name, [point for point in points if all(map(math.isfinite, point))]) for name, points in series
    ]
    every = [point for _, points in series for point in points]
    if not every:
        return '<p class="none">nothing yet</p>'
    x_low, x_high = x_range or (min(x for x, _ in every), max(x for x, _ in every))
    y_low, y_high = y_range or (min(0.0, *(y for _, y in every)), max(y for _, y in every))
    x_high, y_high = (x_high if x_high > x_low else x_low + 1), (y_high if y_high > y_low else y_low + 1)

    def place(point: Point) -> str:
        x = _LEFT + (point[0] - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)
        return f"{x:.1f},{y:.1f}"

    x_ticks = [value for value in ticks(x_low, x_high, 8) if not whole_x or value == int(value)]
    parts = [_axes(place, x_ticks, (x_low, x_high), (y_low, y_high), x_label)]
    for number, (name, points) in enumerate(series):
        if not points:
            continue
        colour = _colour(number)
        key = f' data-class="{keys[number]}"' if keys is not None else ""
        if len(points) == 1:
            x, y = place(points[0]).split(",")
            shape = f'<circle class="dot {colour}" cx="{x}" cy="{y}" r="3"/>'
        else:
            shape = f'<polyline class="line {colour}" points="{" ".join(map(place, points))}"/>'
        last = number_text(points[-1][1])
        parts.append(f"<g{key}><title>{escape(name)}: {last} at the end</title>{shape}</g>")
    legend = "".join(
        f'<span{_key(keys, number)}><i class="{_colour(number)}"></i>{escape(name)}</span>'
        for number, (name, points) in enumerate(series)
        if points
    )
    return f'{_svg(parts, title)}<p class="legend">{legend}</p>'


def _colour(number: int) -> str:
    """CSS classes of a series: its colour, and dashes where the colours have come round."""
    return f"s{number % SERIES_COLOURS}" + (" again" if number >= SERIES_COLOURS else "")


def _key(keys: Sequence[int] | None, number: int) -> str:
    return f' data-class="{keys[number]}"' if keys is not None else ""


def _axes(place, x_ticks: Sequence[float], x_range: Point, y_range: Point, x_label: str) -> str:
    """Grid lines, their numbers and the label of the x axis."""
    parts = []
    for value in ticks(*y_range):
        y = place((x_range[0], value)).split(",")[1]
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(y) + 4:.1f}" class="end">{number_text(value)}</text>')
    for value in x_ticks:
        x = place((value, y_range[0])).split(",")[0]
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 15}" class="mid">{number_text(value)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 4}" class="mid">{escape(x_label)}</text>')
    return "".join(parts)


def column_chart(names: Sequence[str], values: Sequence[float], *, title: str, x_label: str) -> str:
    """Columns side by side, each with its value above and its name below; none where a value is NaN."""
    high = max([*(value for value in values if math.isfinite(value)), 1e-12])
    step = (_WIDTH - 2 * _RIGHT) / max(len(values), 1)
    parts = []
    for number, (name, value) in enumerate(zip(names, values)):
        shown = number_text(value) if math.isfinite(value) else "–"
        height = max(0.0, value if math.isfinite(value) else 0.0) / high * (_HEIGHT - _TOP - _BOTTOM - 16)
        x, y = _RIGHT + number * step, _HEIGHT - _BOTTOM - height
        middle = x + step / 2
        parts.append(
            f'<rect class="bar" x="{x + step * 0.1:.1f}" y="{y:.1f}" width="{step * 0.8:.1f}" '
            f'height="{height:.1f}"><title>{escape(name)}: {shown}</title></rect>'
            f'<text x="{middle:.1f}" y="{y - 4:.1f}" class="mid">{shown}</text>'
            f'<text x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 15}" class="mid">{escape(name)}</text>'
        )
    parts.append(f'<path class="axis" d="M{_RIGHT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    parts.append(f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 4}" class="mid">{escape(x_label)}</text>')
    return _svg(parts, title, " columns")


def _svg(parts: Sequence[str], title: str, kind: str = "") -> str:
    return (
        f'<svg class="chart{kind}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
