"""Arithmetic of boxes outside the graph: corners and sides, area, intersection, IoU and DIoU.

Boxes are arrays (..., 4) of x1 y1 x2 y2 unless said otherwise. Two arrays of boxes are broadcast against each other:
equal shapes (n, 4) give the n pairs, (n, 1, 4) and (m, 4) all n x m. `offset` is added to widths and heights, 1 where
boxes are counted in whole pixels as VOC's tools do.

Overlaps written elsewhere, and why: `src.layers.box_overlap` is the graph's, with gradients; the ONNX post-processing
(`src.export.onnx_postprocess`) is made of ONNX operators; `src.evaluation.matching` takes pycocotools', whose last
digit counts; `src.layers.anchors` and `src.targets` compare widths and heights alone.
"""

import numpy as np

_TINY = np.finfo(float).tiny  # instead of a division by zero


def from_centre(boxes: np.ndarray) -> np.ndarray:
    """Centre x y, width, height to x1 y1 x2 y2."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def from_corner(boxes: np.ndarray) -> np.ndarray:
    """COCO's x1 y1 width height to x1 y1 x2 y2."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def to_corner(boxes: np.ndarray) -> np.ndarray:
    """x1 y1 x2 y2 to COCO's x1 y1 width height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def _columns(boxes: np.ndarray) -> list[np.ndarray]:
    return [boxes[..., column] for column in range(4)]


def area(boxes: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Area (...) of boxes."""
    x1, y1, x2, y2 = _columns(boxes)
    return _side(x1, x2, offset) * _side(y1, y2, offset)


def intersection(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Area (...) that boxes have in common with others."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = _columns(boxes), _columns(others)
    width = _side(np.maximum(x1, u1), np.minimum(x2, u2), offset)
    height = _side(np.maximum(y1, v1), np.minimum(y2, v2), offset)
    return np.maximum(width, 0) * np.maximum(height, 0)


def _side(low: np.ndarray, high: np.ndarray, offset: float) -> np.ndarray:
    side = high - low
    return side + offset if offset else side


def iou(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """Intersection over union (...), 0 where both boxes are without area."""
    shared = intersection(boxes, others, offset)
    return shared / np.maximum(area(boxes, offset) + area(others, offset) - shared, _TINY)


def diou(boxes: np.ndarray, others: np.ndarray, offset: float = 0.0) -> np.ndarray:
    """IoU - (distance of the centres / diagonal of the enclosing box)^2 (https://arxiv.org/abs/1911.08287)."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = _columns(boxes), _columns(others)
    distance = ((x1 + x2 - u1 - u2) ** 2 + (y1 + y2 - v1 - v2) ** 2) / 4
    diagonal = (np.maximum(x2, u2) - np.minimum(x1, u1)) ** 2 + (np.maximum(y2, v2) - np.minimum(y1, v1)) ** 2
    return iou(boxes, others, offset) - distance / diagonal
