"""Decoded maps of one picture to its detections: score filter, non-maximum suppression, back to the picture."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """Detections of one picture, best first.

    boxes (n, 4) float32 x1 y1 x2 y2 in the picture's pixels, scores (n,) float32, classes (n,) int32.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

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
        max_detections: most detections a picture.
        max_candidates: most boxes that enter the suppression, the best ones.
    """

    score_threshold: float = 0.001
    nms_threshold: float = 0.6
    nms_type: str = "diou"
    published_overlap: bool = False
    multi_label: bool = False
    multi_label_thresh: float = 0.2
    max_detections: int = 1000
    max_candidates: int = 4096


def postprocess(maps: list[np.ndarray], image_wh, options: PostprocessOptions, geometry=None, input_hw=None):
    """Detections of one picture.

    Args:
        maps: decoded maps (H, W, 3, 5 + C) of the strides, boxes x y w h as shares of the input.
        image_wh: width and height of the picture.
        options: thresholds and choices.
        geometry: with `inverse` from input to picture pixels (needs `input_hw`); None: the picture was
            stretched to the input.
        input_hw: (height, width) of the input.

    Returns:
        `Detections`, clipped to the picture.
    """
    candidates, scores, classes = select_candidates(maps, options)
    width, height = (float(side) for side in image_wh)
    if geometry is None:
        boxes = _corners(candidates * np.array([width, height] * 2, np.float32))
    else:
        boxes = geometry.inverse(_corners(candidates * np.array([input_hw[1], input_hw[0]] * 2, np.float32)))
    boxes = _clip(boxes, width, height, options.published_overlap)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, scores, classes = boxes[inside], scores[inside], classes[inside]
    offset = 1.0 if options.published_overlap else 0.0
    kept = suppress(
        boxes, scores, classes, options.nms_threshold, diou=options.nms_type == "diou", offset=offset
    )[: options.max_detections]
    return Detections(boxes[kept], scores[kept], classes[kept])


def select_candidates(
    maps: list[np.ndarray], options: PostprocessOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) x y w h, scores (n,), classes (n,) that pass the score filter, best first.

    Objectness alone bounds the score, so classes are looked at only where it passes.
    """
    boxes, scores, classes = [], [], []
    for decoded in maps:
        rows = decoded.reshape(-1, decoded.shape[-1])
        rows = rows[rows[:, 4] >= options.score_threshold]
        probabilities = rows[:, 5:]
        if options.multi_label:
            row, label = np.nonzero(probabilities > options.multi_label_thresh)
        else:
            row, label = np.arange(len(rows)), probabilities.argmax(axis=1) if len(rows) else np.zeros(0, int)
        score = probabilities[row, label] * rows[row, 4]
        kept = score >= options.score_threshold
        boxes.append(rows[row[kept], :4])
        scores.append(score[kept])
        classes.append(label[kept])
    box, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)
    finite = np.isfinite(box).all(axis=1) & (box[:, 2:] > 0).all(axis=1)  # exp overflows in a bad network
    box, score, label = box[finite], score[finite], label[finite]
    if len(score) > options.max_candidates:
        best = np.argpartition(-score, options.max_candidates)[: options.max_candidates]
        box, score, label = box[best], score[best], label[best]
    order = np.lexsort((*box.T, label, -score))  # ties in a fixed order, whatever the input's
    return box[order], score[order], label[order].astype(np.int32)


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    threshold: float,
    *,
    diou: bool = True,
    offset: float = 0.0,
) -> np.ndarray:
    """Greedy non-maximum suppression within each class.

    A box is dropped where its overlap with a better kept box of its class is above the threshold. The
    overlap is IoU, or DIoU = IoU - (distance of centres / diagonal of the enclosing box)^2
    (https://arxiv.org/abs/1911.08287).

    Args:
        boxes: (n, 4) x1 y1 x2 y2, sorted by falling score.
        scores: (n,) falling.
        classes: (n,).
        threshold: overlap.
        diou: DIoU instead of IoU.
        offset: added to widths and heights (1: the published code's whole pixels).

    Returns:
        Indices of the kept boxes, best first.
    """
    kept = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        kept.append(members[_suppress_one_class(boxes[members], threshold, diou, offset)])
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, int)


def _suppress_one_class(boxes: np.ndarray, threshold: float, diou: bool, offset: float) -> np.ndarray:
    """Kept positions. Works through the boxes in blocks: each block against the kept ones at once."""
    block_size = 256
    kept = np.zeros(0, int)
    columns = _prepare(boxes, offset)
    for start in range(0, len(boxes), block_size):
        block = np.arange(start, min(start + block_size, len(boxes)))
        if len(kept):
            over = _is_over(columns, block, kept, threshold, diou, offset)
            block = block[~over.any(axis=1)]
        if len(block) > 1:
            over = np.triu(_is_over(columns, block, block, threshold, diou, offset), k=1)
            alive = np.ones(len(block), bool)
            for position in np.flatnonzero(over.any(axis=1)):  # rows that drop nothing need no turn
                if alive[position]:
                    alive &= ~over[position]
            block = block[alive]
        kept = np.concatenate([kept, block])
    return kept


def _prepare(boxes: np.ndarray, offset: float) -> tuple[np.ndarray, ...]:
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    return x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)


def _is_over(columns, rows: np.ndarray, others: np.ndarray, threshold: float, diou: bool, offset: float):
    """(len(rows), len(others)) whether IoU or DIoU is above the threshold."""
    x1, y1, x2, y2, area = (column[rows][:, None] for column in columns)
    u1, v1, u2, v2, other_area = (column[others][None] for column in columns)
    shared = np.minimum(x2, u2)
    shared -= np.maximum(x1, u1)
    shared += offset
    np.maximum(shared, 0, out=shared)
    height = np.minimum(y2, v2)
    height -= np.maximum(y1, v1)
    height += offset
    np.maximum(height, 0, out=height)
    shared *= height
    # IoU > t without a division: shared > t (area + other - shared).
    over = shared * (1 + threshold) > threshold * (area + other_area)
    if diou and over.any():  # DIoU is at most IoU: only these few can be over
        row, other = np.nonzero(over)
        over[row, other] = _diou(columns, rows[row], others[other], shared[row, other]) > threshold
    return over


def _diou(columns, a: np.ndarray, b: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """DIoU of pairs of boxes with a known intersection."""
    x1, y1, x2, y2, area = (column[a] for column in columns)
    u1, v1, u2, v2, other_area = (column[b] for column in columns)
    distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    diagonal = (np.maximum(x2, u2) - np.minimum(x1, u1)) ** 2 + (np.maximum(y2, v2) - np.minimum(y1, v1)) ** 2
    return shared / (area + other_area - shared) - distance / diagonal


def _corners(boxes: np.ndarray) -> np.ndarray:
    """x y w h to x1 y1 x2 y2, both (n, 4)."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _clip(boxes: np.ndarray, width: float, height: float, published: bool) -> np.ndarray:
    """Boxes within the picture."""
    limits = np.array([width, height], np.float32)
    if not published:
        return np.concatenate(
            [np.clip(boxes[:, :2], 0, limits), np.clip(boxes[:, 2:], 0, limits)], axis=1
        ).astype(np.float32)
    corner = np.maximum(boxes[:, :2], 0)
    size = np.minimum(boxes[:, 2:] - boxes[:, :2], limits)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)
