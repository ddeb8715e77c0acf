"""Decoded maps of one image to its detections: score filter, non-maximum suppression, back to the image."""

from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..imaging.boxes import from_centre
from .nms import suppress


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
    if geometry is None:
        boxes = from_centre(candidates * np.array([*image_wh] * 2, np.float32))
    else:
        boxes = geometry.inverse(
            from_centre(candidates * np.array([input_hw[1], input_hw[0]] * 2, np.float32))
        )
    return finish(boxes, scores, classes, image_wh, options)


def finish(boxes, scores, classes, image_wh, options: PostprocessOptions) -> Detections:
    """Detections of candidates (n, 4) x1 y1 x2 y2 in pixels of the image: clipped, suppressed, the best ones kept."""
    width, height = (float(side) for side in image_wh)
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
        **config.pick("nms_type", "published_overlap", "multi_label", "multi_label_thresh"),
        **config.pick("max_detections", "max_candidates", "nms_before_clip"),
    )
