"""Greedy non-maximum suppression, exact and within each class, for thousands of boxes.

Within an exported ONNX it is in `export/onnx_postprocess.py`; the tiles of a scene are merged in `merge.py`.
"""

import numpy as np

from ..imaging.boxes import area, iou
from ..imaging.boxes import diou as distance_iou

# So many boxes are compared with so many kept ones at once: few enough for the processor's cache.
_BLOCK = 256
_PART = 512


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    threshold: float,
    *,
    diou: bool = True,
    offset: float = 0.0,
    limit: int | None = None,
) -> np.ndarray:
    """Greedy non-maximum suppression within each class.

    A box is dropped where its overlap with a better kept box of its class is above the threshold. The
    overlap is IoU, or DIoU = IoU - (distance of centres / diagonal of the enclosing box)^2
    (https://arxiv.org/abs/1911.08287).

    Args:
        boxes: (n, 4) x1 y1 x2 y2.
        scores: (n,); of equal ones the first is the better.
        classes: (n,).
        threshold: overlap.
        diou: DIoU instead of IoU.
        offset: added to widths and heights (1: the published code's whole pixels).
        limit: stop when so many boxes are kept; the rest could only have come after them.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    if threshold >= 1:  # no overlap is larger
        return order[:limit]
    pairs = _Overlaps(boxes[order], classes[order], threshold, diou, offset)
    limit = len(order) if limit is None else limit
    kept = np.zeros(0, np.intp)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        for part in range(0, len(kept), _PART):
            row, _ = pairs.over(block, kept[part : part + _PART])
            if len(row):
                block = np.delete(block, row)
        kept = np.concatenate([kept, block[keep_greedily(len(block), *pairs.over(block, block))]])
        if len(kept) >= limit:
            break
    return order[kept[:limit]]


def keep_greedily(count: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """(count,) bool: who is kept, where `row` is dropped by `column` if `column` < `row` is kept itself."""
    later = column < row
    row, column = row[later], column[later]
    kept = np.ones(count, bool)
    while True:  # each turn settles at least the first box that was wrong, mostly many; ends at the answer
        before = kept
        kept = np.ones(count, bool)
        kept[row[before[column]]] = False
        if (kept == before).all():
            return kept


class _Overlaps:
    """Which pairs of boxes overlap above a threshold.

    All pairs of two sets are compared in float32 with some slack, in which classes lie beside each other
    on a wide canvas; the few that may pass are then computed in float64.
    """

    def __init__(self, boxes, classes, threshold: float, diou: bool, offset: float):
        self.threshold, self.diou, self.offset, self.classes = threshold, diou, offset, classes
        self.exact = x1, y1, x2, y2 = np.ascontiguousarray(boxes.T, np.float64)
        low, high = (boxes.min(), boxes.max()) if len(boxes) else (0.0, 0.0)
        apart = classes * (float(high) - float(low) + 2 * offset)
        # Coordinates so large lose some digits in float32: boxes grow by as much.
        slack = float(4 * np.spacing(np.float32(np.abs([low, high]).max() + np.abs(apart).max(initial=0))))
        # A pair's intersection is width x height of the inner borders: offset and slack go into them.
        grow = offset / 2 + slack
        self.x1, self.y1, self.x2, self.y2 = (
            column.astype(np.float32)
            for column in (x1 + apart - grow, y1 - grow, x2 + apart + grow, y2 + grow)
        )
        self.scratch = np.empty(
            (3, _BLOCK * _PART), np.float32
        )  # not new pages from the system for each pair of sets
        # IoU > t without a division: shared > t / (1 + t) (area + other area).
        self.share = (area(self.exact.T, offset) * (threshold / (1 + threshold)) * (1 - 1e-5)).astype(
            np.float32
        )

    def over(self, rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (row, other) of the pairs above the threshold."""
        shape = len(rows), len(others)
        shared, edge, height = (buffer[: shape[0] * shape[1]].reshape(shape) for buffer in self.scratch)
        np.minimum(self.x2[rows, None], self.x2[others], out=shared)
        np.maximum(self.x1[rows, None], self.x1[others], out=edge)
        shared -= edge
        np.maximum(shared, 0, out=shared)  # two gaps do not make an intersection
        np.minimum(self.y2[rows, None], self.y2[others], out=height)
        np.maximum(self.y1[rows, None], self.y1[others], out=edge)
        height -= edge
        shared *= height
        np.add(self.share[rows, None], self.share[others], out=edge)
        row, other = np.divmod(np.flatnonzero(shared > edge), max(len(others), 1))
        sure = self._is_over(rows[row], others[other])
        return row[sure], other[sure]

    def _is_over(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(n,) bool for pairs of boxes, by the definition."""
        overlap = (distance_iou if self.diou else iou)(self.exact[:, a].T, self.exact[:, b].T, self.offset)
        return (overlap > self.threshold) & (self.classes[a] == self.classes[b])
