"""How cost grows: curves of time and memory, as a table, a JSON file and an image.

    python -m benchmarks.scaling [--quick] [--only batch,size,tiles,merge] [--out FILE.json] [--svg docs/scaling.svg]

- batch, size: a training step of the full network against images in it (at 416) and side of the input (batch 2).
- tiles: a whole evaluation (reading, resizing, post-processing, JSON, metrics) against the number of tiles. The
  network's own cost is a multiple of the tiles and is left out: recorded maps of a network take its place.
- merge: detections of a scene's overlapping tiles merged, against their number.

Every point is a process of its own, so memory is that point's; what imports take is shown too.
"""

import argparse
import math
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine, load_average
from benchmarks.workers import Worker
from src.base.atomic import atomic_write, write_json
from src.report.svg import line_chart

MEGABYTE = 2**20
FULL = {"shape": (64, 128, 256, 512, 1024), "layers": (1, 2, 8, 8, 4), "classes": 80}
SLIM = {"shape": (16, 32, 64, 128, 256), "layers": (1, 1, 1, 1, 1), "classes": 16}
POINTS = {
    "batch": (1, 2, 4),
    "size": (320, 416, 608),
    "tiles": (100, 1000, 3000, 10_000),
    "merge": (1000, 10_000, 100_000, 300_000, 1_000_000),
}
QUICK_POINTS = {"batch": (1, 2), "size": (96, 160), "tiles": (50, 100), "merge": (1000, 10_000, 100_000)}


def write_batch(path: Path, batch: int, size: int, classes: int) -> None:
    """A training step's images with 90 boxes in each, as a file for workers."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, size - 30, (batch, 90, 2))
    label = rng.integers(0, classes, (batch, 90, 1))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 30, corner.shape), label], -1)
    images = rng.integers(0, 256, (batch, 3, size, size), np.uint8)
    np.savez(path, images=images, boxes=boxes.astype(np.float32))


class Curves:
    """Measures the points of each curve.

    Args:
        folder: for data.
        points: of each curve.
        network: arguments of the training step's worker.
        repeats: runs of a point, of which the median is taken.
    """

    def __init__(self, folder: Path, points: dict, network: dict, repeats: int):
        self.folder, self.points, self.network, self.repeats = folder, points, network, repeats

    def batch(self) -> list[dict]:
        """Step time and memory by images in the step."""
        size = 416 if self.network is FULL else 96
        return [{"batch": count, **self.step(count, size)} for count in self.points["batch"]]

    def size(self) -> list[dict]:
        """Step time and memory by side of the input, batch 2."""
        return [{"size": size, **self.step(2, size)} for size in self.points["size"]]

    def step(self, batch: int, size: int) -> dict:
        """Seconds of a step and memory of its process."""
        data = self.folder / f"step{batch}_{size}.npz"
        write_batch(data, batch, size, self.network["classes"])
        return self.point(f"step {size}", "train", sizes=[size], data=str(data), **self.network)

    def tiles(self) -> list[dict]:
        """Evaluation time and memory by number of tiles, the network replaced by recorded maps."""
        return [
            {
                "tiles": count,
                **self.point("everything", "recorded", warm_ups=0, repeats=1, tiles=count, size=416),
            }
            for count in self.points["tiles"]
        ]

    def merge(self) -> list[dict]:
        """Merge time and memory by number of boxes."""
        return [
            {"boxes": count, **self.point("merge", "merge", boxes=count)} for count in self.points["merge"]
        ]

    def point(self, run: str, case: str, warm_ups: int = 1, repeats: int = 0, **arguments) -> dict:
        """Median seconds and largest memory of one case in a fresh process."""
        with Worker("benchmarks.ours", case, **arguments) as worker:
            results = [worker.run(run) for _ in range(warm_ups + (repeats or self.repeats))]
            found = {
                "seconds": statistics.median(result["seconds"] for result in results[warm_ups:]),
                "processor": statistics.median(result["processor"] for result in results[warm_ups:]),
                "memory_mb": results[-1]["peak"] / MEGABYTE,
                "imports_mb": worker.info["peak_imports"] / MEGABYTE,
            }
            return {
                **found,
                **{key: value for key, value in worker.info.items() if not key.startswith("peak")},
            }


def exponent(rows: list[dict], by: str, of: str) -> float:
    """Slope of log(of) over log(by) between the last two points: 1 is linear, 2 quadratic."""
    (x0, y0), (x1, y1) = ((row[by], row[of]) for row in rows[-2:])
    return math.log(y1 / y0) / math.log(x1 / x0)


def describe(name: str, rows: list[dict]) -> str:
    """A table of a curve, and how it grows."""
    by = next(iter(rows[0]))
    lines = [f"| {by} | seconds | seconds each | memory MB |", "| --- | --- | --- | --- |"]
    for row in rows:
        each = row["seconds"] / row[by]
        lines.append(f"| {row[by]:,} | {row['seconds']:.3g} | {each:.3g} | {row['memory_mb']:.0f} |")
    if len(rows) > 1:
        power = "the side squared is 2" if by == "size" else "linear is 1"
        lines.append(f"\n{name}: time grows with the power {exponent(rows, by, 'seconds'):.2f} ({power})")
    return "\n".join(lines)


CHARTS = (
    ("batch", "batch", "images a step (416)", "training step, seconds"),
    ("size", "size", "side of the input (batch 2)", "training step, seconds"),
    ("tiles", "tiles", "tiles", "evaluation without the network, seconds"),
    ("merge", "boxes", "boxes", "merge of a scene, seconds"),
)
_STYLE = """
text{font:11px system-ui,sans-serif;fill:#5c6776}.head{font-size:13px;font-weight:600;fill:#1d2530}
.back{fill:#fff}.grid{stroke:#d9dee5}.axis{stroke:#5c6776;fill:none}.mid{text-anchor:middle}.end{text-anchor:end}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.s0{stroke:#1769c2}.s1{stroke:#d1571a}.dot{stroke-width:3}
.k0{fill:#1769c2}.k1{fill:#d1571a}
@media(prefers-color-scheme:dark){.back{fill:#1b2129}text{fill:#9aa6b5}.head{fill:#e4e8ee}.grid{stroke:#323b47}}
"""


def image(curves: dict[str, list[dict]]) -> str:
    """All curves as one SVG: seconds above, memory below, a column for each."""
    shown = [chart for chart in CHARTS if curves.get(chart[0])]
    width, height = 460, 270
    parts = []
    for column, (name, by, label, title) in enumerate(shown):
        rows = curves[name]
        for line, (text, key) in enumerate(((title, "seconds"), ("memory of the process, MB", "memory_mb"))):
            points = [(row[by], row[key]) for row in rows]
            chart = line_chart([(text, points)], title=f"{text} by {label}", x_label=label)
            inner = re.match(r"<svg[^>]*>(.*)</svg>", chart)[1]
            parts.append(
                f'<g transform="translate({column * width} {line * height + 26})">'
                f'<text class="head" x="12" y="-8">{escape(text)}</text>{inner}</g>'
            )
    size = f"{max(1, len(shown)) * width} {2 * height + 6}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-label="how cost grows">'
        f'<style>{_STYLE}</style><rect class="back" width="100%" height="100%"/>{"".join(parts)}</svg>\n'
    )


def measure(curves: Curves, names: Sequence[str]) -> dict[str, list[dict]]:
    """The curves, printed as they come."""
    found = {}
    for name in names:
        rows_of: Callable[[], list[dict]] = getattr(curves, name)
        found[name] = rows_of()
        print(f"\n{describe(name, found[name])}", flush=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="slim network and few points")
    parser.add_argument("--only", default=",".join(POINTS), help="curves, separated by commas")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parser.add_argument("--svg", type=Path, help="image of the curves")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := set(names) - set(POINTS):
        parser.error(f"--only: no curves called {', '.join(sorted(unknown))}")
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start']}", flush=True)
    points, network = (QUICK_POINTS, SLIM) if options.quick else (POINTS, FULL)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        found = measure(Curves(Path(folder), points, network, 3), names)
    machine["load_at_end"] = load_average()
    if options.out:
        write_json(options.out, {"machine": machine, "quick": options.quick, "curves": found}, indent=1)
    if options.svg:
        with atomic_write(options.svg) as handle:
            handle.write(image(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
