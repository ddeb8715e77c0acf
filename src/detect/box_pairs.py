"""Which boxes of a large set intersect, found without comparing all with all.

The plane is cut into horizontal strips twice as high as the boxes are on average. A box stands in every
strip that it reaches: at most two and a half entries a box on average, whatever the spread of the heights.
In a strip the boxes are sorted by their left edge, so those that begin before a box ends are a run behind
it, found by bisection. A pair counts in the strip of the lower one of the two upper edges alone.
"""

from collections.abc import Iterator

import numpy as np

_CANDIDATES_AT_ONCE = 1 << 20  # bounds the memory
_MOST_STRIPS = 1 << 20


def intersecting_pairs(boxes: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of boxes of one label that intersect or touch, each pair once, in parts.

    Args:
        boxes: (n, 4) x1 y1 x2 y2, finite.
        labels: (n,) int.

    Yields:
        Two arrays of indices of boxes; which of a pair is in the first one is arbitrary.
    """
    if len(boxes) < 2:
        return
    x1, y1, x2, y2 = np.array(boxes, np.float64).T.copy()
    x1, x2, y1, y2 = x1 - x1.min(), x2 - x1.min(), y1 - y1.min(), y2 - y1.min()
    strip = max(2 * float((y2 - y1).mean()), float(y2.max()) / _MOST_STRIPS, 1e-9)
    top = (y1 / strip).astype(np.int64)
    count = (y2 / strip).astype(np.int64) - top + 1
    box = np.repeat(np.arange(len(boxes)), count)
    level = top[box] + np.arange(len(box)) - np.repeat(np.cumsum(count) - count, count)
    # One number that sorts by label, strip and left edge. Rounding keeps the order: no pair is lost.
    label = np.unique(labels, return_inverse=True)[1]
    place = (label[box] * (level.max() + 1) + level) * (float(x2.max()) + 1)
    begin = place + x1[box]
    order = np.argsort(begin, kind="stable")
    box, level = box[order], level[order]
    end = np.searchsorted(begin[order], (place + x2[np.repeat(np.arange(len(boxes)), count)])[order], "right")
    runs = end - np.arange(1, len(box) + 1)
    total = np.cumsum(runs)
    start = 0
    while start < len(box):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _CANDIDATES_AT_ONCE, "right")))
        run = runs[start:stop]
        entry = np.repeat(np.arange(start, stop), run)
        other = entry + 1 + np.arange(len(entry)) - np.repeat(np.cumsum(run) - run, run)
        strip_of, a, b = level[entry], box[entry], box[other]
        lower = np.maximum(y1[a], y1[b])
        found = (lower <= np.minimum(y2[a], y2[b])) & (np.maximum(top[a], top[b]) == strip_of)
        yield a[found], b[found]
        start = stop
