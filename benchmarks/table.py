"""Rows of the benchmark's table: what was measured, of what, against which peer and goal."""

import math
from dataclasses import dataclass

from benchmarks.workers import Timing, paired_ratio


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: for `--only`.
        work: what was done.
        ours: in `unit`.
        peer: name of what it is compared with, empty for a limit of its own.
        value: the peer's, NaN without.
        ratio: ours by the peer's, NaN without.
        goal: largest `ratio`, or largest `ours` where there is no peer; NaN: for information.
        unit: s, ms or MB.
        note: what must be known to read the row.
    """

    key: str
    work: str
    ours: float
    unit: str
    peer: str = ""
    value: float = math.nan
    ratio: float = math.nan
    goal: float = math.nan
    note: str = ""

    @property
    def met(self) -> str:
        """yes, no or nothing."""
        if math.isnan(self.goal):
            return ""
        return "yes" if (self.ratio if self.peer else self.ours) <= self.goal else "no"


def table(rows: list[Row]) -> str:
    """The rows as a table for people (Markdown)."""
    lines = ["| work | ours | peer | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        peer = f"{row.peer} {quantity(row.value, row.unit)}" if row.peer else ""
        ratio = "" if math.isnan(row.ratio) else f"{row.ratio:.3f}" if row.ratio < 0.1 else f"{row.ratio:.2f}"
        if math.isnan(row.goal):
            goal = ""
        else:
            goal = f"≤ {row.goal:.3g} ×" if row.peer else f"≤ {quantity(row.goal, row.unit)}"
        note = f" ({row.note})" if row.note else ""
        lines.append(
            f"| {row.work}{note} | {quantity(row.ours, row.unit)} | {peer} | {ratio} | {goal} | {row.met} |"
        )
    return "\n".join(lines)


def quantity(value: float, unit: str) -> str:
    """A number of three digits with its unit."""
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def compare(
    key: str, work: str, timings: dict[str, Timing], goals: dict[str, float], unit: str = "s", per: float = 1
) -> list[Row]:
    """A row for each peer. `timings` has ours under "ours"; `goals` the largest ratio by peer (NaN: none)."""
    factor = {"s": 1, "ms": 1000}[unit] / per
    ours = timings["ours"]
    return [
        Row(
            key, work, ours.median * factor, unit, peer, timings[peer].median * factor,
            paired_ratio(ours.seconds, timings[peer].seconds), goal,
        )
        for peer, goal in goals.items()
    ]  # fmt: skip


def plain(value):
    """The document without NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
