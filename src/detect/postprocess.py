"""Decoded maps of one image to its detections: score filter, non-maximum suppression, back to the image."""

from dataclasses import dataclass

import numpy as np

from ..config import Config

# So many boxes are compared with so many kept ones at once: few enough for the processor's cache.
_BLOCK = 256
_PART = 512


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first.

    boxes (n, 4) float32 x1 y1 x2 y2 in the image's pixels, scores (n,) float32, classes (n,) int32.
    `capped`: there were more than `max_detections`.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    capped: bool = False

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class PostprocessOptions:
    """How scores become detections.

    Attributes:
        score_threshold: lowest objectness x class probability.
        nms_threshold: overlap above which the lower of two boxes of a class is dropped.
        nms_type: `diou` (IoU less the squared share of the centres' distance) or `iou`.
        published_overlap: overlaps with width + 1 and height + 1, and boxes moved, not shrunk, at the
            left and upper border: the published code's, to compare numbers with it.
        multi_label: every class above `multi_label_thresh` is a detection, not only the best one.
        multi_label_thresh: lowest class probability under `multi_label`.
        max_detections: most detections an image.
        max_candidates: most boxes that enter the suppression, the best ones.
        nms_before_clip: boxes are suppressed as they are in the input, and clipped to the image afterwards, as
            in MindYOLO.
    """

    score_threshold: float = 0.001
    nms_threshold: float = 0.6
    nms_type: str = "diou"
    published_overlap: bool = False
    multi_label: bool = False
    multi_label_thresh: float = 0.2
    max_detections: int = 1000
    max_candidates: int = 4096
    nms_before_clip: bool = False


def postprocess(maps: list[np.ndarray], image_wh, options: PostprocessOptions, geometry=None, input_hw=None):
    """Detections of one image.

    Args:
        maps: decoded maps (H, W, 3, 5 + C) of the strides, boxes x y w h as shares of the input.
        image_wh: width and height of the image.
        options: thresholds and choices.
        geometry: with `inverse` from input to image pixels (needs `input_hw`); None: the image was
            stretched to the input.
        input_hw: (height, width) of the input.

    Returns:
        `Detections`, clipped to the image.
    """
    candidates, scores, classes = select_candidates(maps, options)
    width, height = (float(side) for side in image_wh)
    if geometry is None:
        boxes = _corners(candidates * np.array([width, height] * 2, np.float32))
    else:
        boxes = geometry.inverse(_corners(candidates * np.array([input_hw[1], input_hw[0]] * 2, np.float32)))
    if not options.nms_before_clip:
        boxes, scores, classes = _clipped(boxes, scores, classes, width, height, options.published_overlap)
    offset = 1.0 if options.published_overlap else 0.0
    kept = suppress(
        boxes,
        scores,
        classes,
        options.nms_threshold,
        diou=options.nms_type == "diou",
        offset=offset,
        limit=options.max_detections + 1,
    )
    capped = len(kept) > options.max_detections
    kept = kept[: options.max_detections]
    boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
    if options.nms_before_clip:
        boxes, scores, classes = _clipped(boxes, scores, classes, width, height, options.published_overlap)
    return Detections(boxes, scores, classes, capped)


def select_candidates(
    maps: list[np.ndarray], options: PostprocessOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) x y w h, scores (n,), classes (n,) that pass the score filter, best first.

    Objectness alone bounds the score, so classes are looked at only where it passes.
    """
    levels = [decoded.reshape(-1, decoded.shape[-1]) for decoded in maps]
    passed = [_pass_filter(flat, options) for flat in levels]
    score = np.concatenate([level_score for _, _, level_score in passed])
    chosen = np.arange(len(score))
    if len(score) > options.max_candidates:
        chosen = np.argpartition(-score, options.max_candidates)[: options.max_candidates]
        chosen.sort()
    ends = np.cumsum([len(level_score) for _, _, level_score in passed])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    rows, labels = [], []
    for flat, (row, label, _), part, end in zip(levels, passed, parts, ends):
        local = part - (end - len(row))
        rows.append(flat[row[local]])
        labels.append(rows[-1][:, 5:].argmax(axis=1) if label is None else label[local])
    box, label, score = np.concatenate(rows)[:, :4], np.concatenate(labels), score[chosen]
    order = np.argsort(-score, kind="stable")
    if (np.diff(score[order]) == 0).any():  # ties in a fixed order, whatever the input's
        order = np.lexsort((*box.T, label, -score))
    box, score, label = box[order], score[order], label[order].astype(np.int32)
    usable = (
        np.isfinite(box).all(axis=1) & (box[:, 2] > 0) & (box[:, 3] > 0)
    )  # exp overflows in a bad network
    return box[usable], score[usable], label[usable]


def _pass_filter(flat: np.ndarray, options: PostprocessOptions):
    """Of the (cells, 5 + C) predictions of a stride: row, class (None: the best one) and score that pass."""
    row = np.flatnonzero(flat[:, 4] >= options.score_threshold)
    label = None
    probabilities = flat[row, 5:]
    if options.multi_label:
        above, label = np.nonzero(probabilities > options.multi_label_thresh)
        row, score = row[above], probabilities[above, label]
    else:
        score = probabilities.max(axis=1)
    score = score * flat[row, 4]
    passed = np.flatnonzero(score >= options.score_threshold)
    return row[passed], None if label is None else label[passed], score[passed]


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
        self.area = (x2 - x1 + offset) * (y2 - y1 + offset)
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
        self.share = (self.area * (threshold / (1 + threshold)) * (1 - 1e-5)).astype(np.float32)

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
        (x1, y1, x2, y2), (u1, v1, u2, v2) = self.exact[:, a], self.exact[:, b]
        width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1) + self.offset, 0)
        height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1) + self.offset, 0)
        shared = width * height
        overlap = shared / np.maximum(self.area[a] + self.area[b] - shared, np.finfo(float).tiny)
        if self.diou:
            distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
            overlap -= distance / (
                (np.maximum(x2, u2) - np.minimum(x1, u1)) ** 2
                + (np.maximum(y2, v2) - np.minimum(y1, v1)) ** 2
            )
        return (overlap > self.threshold) & (self.classes[a] == self.classes[b])


def _corners(boxes: np.ndarray) -> np.ndarray:
    """x y w h to x1 y1 x2 y2, both (n, 4)."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _clipped(boxes, scores, classes, width: float, height: float, published: bool):
    """Boxes, scores and classes of what the image shows, clipped to it."""
    boxes = _clip(boxes, width, height, published)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[inside], scores[inside], classes[inside]


def _clip(boxes: np.ndarray, width: float, height: float, published: bool) -> np.ndarray:
    """Boxes within the image."""
    limits = np.array([width, height], np.float32)
    if not published:
        return np.concatenate(
            [np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, 2:], 0, limits)], axis=1
        ).astype(np.float32)
    corner = np.maximum(boxes[:, :2], 0)
    size = np.minimum(boxes[:, 2:] - boxes[:, :2], limits)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def postprocess_options(
    config: Config, score: str = "eval_ignore_threshold", overlap: str = "nms_thresh"
) -> PostprocessOptions:
    """The options of post-processing; `score` and `overlap` name those of the two thresholds."""
    return PostprocessOptions(
        score_threshold=config[score],
        nms_threshold=config[overlap],
        nms_type=config.nms_type,
        published_overlap=config.published_overlap,
        multi_label=config.multi_label,
        multi_label_thresh=config.multi_label_thresh,
        max_detections=config.max_detections,
        max_candidates=config.max_candidates,
        nms_before_clip=config.nms_before_clip,
    )
