"""Anchors for a data set: how well nine shapes fit its boxes, k-means by overlap, and a genetic refinement.

Boxes and anchors are (n, 2) width and height in pixels of the network's input, compared at a common centre as
the assignment of targets does (`src.targets`). k-means with the distance 1 - IoU is that of YOLO9000 (Redmon and
Farhadi, arXiv:1612.08242, section 2), here with medians for centres.
"""

from dataclasses import dataclass

import numpy as np

from ..base.errors import UserError

SECOND_PASS_OVERLAP = 0.213  # a box also goes to every anchor that it overlaps by more
_RESTARTS, _ROUNDS = 4, 100  # of k-means; most rounds of a start
_GAIN, _PATIENCE = 1e-5, 3  # rounds that gain less mean IoU than this before a start ends


@dataclass(frozen=True)
class AnchorFit:
    """How anchors fit boxes.

    Attributes:
        recall: best-possible recall, the share of boxes whose best anchor has IoU > 0.213. The others are
            given to their best anchor too, but its box must then be stretched far.
        over_half: share of boxes whose best anchor has IoU > 0.5.
        mean_iou: mean IoU of a box with its best anchor.
        share: (k,) share of the boxes that each anchor is the best one of.
    """

    recall: float
    over_half: float
    mean_iou: float
    share: np.ndarray


def shape_iou(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU (k, n) of boxes (n, 2) with anchors (k, 2) at a common centre."""
    width, height = np.ascontiguousarray(boxes.T)
    area = width * height
    out = np.empty((len(anchors), len(boxes)), width.dtype)
    for row, (anchor_w, anchor_h) in zip(out, anchors.astype(width.dtype)):
        common = np.minimum(width, anchor_w)
        common *= np.minimum(height, anchor_h)
        np.divide(common, area + anchor_w * anchor_h - common, out=row)
    return out


def fit_of(boxes: np.ndarray, anchors: np.ndarray) -> AnchorFit:
    """How well anchors (k, 2) fit boxes (n, 2)."""
    overlap = shape_iou(boxes, anchors)
    best = overlap.max(axis=0)
    share = np.bincount(overlap.argmax(axis=0), minlength=len(anchors)) / len(boxes)
    return AnchorFit(
        float((best > SECOND_PASS_OVERLAP).mean()),
        float((best > 0.5).mean()),
        float(best.mean(dtype=np.float64)),
        share,
    )


def sorted_anchors(anchors: np.ndarray) -> np.ndarray:
    """Whole pixels, at least 1, the smallest area first: three each from the finest stride on."""
    anchors = np.maximum(np.rint(anchors), 1).astype(np.int64)
    return anchors[np.lexsort((anchors[:, 0], anchors.prod(axis=1)))]


def kmeans_anchors(boxes: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Anchors (k, 2) by k-means with the distance 1 - IoU; never a worse fit than `start` (k, 2).

    Several starts are drawn (each next centre with the probability of its distance from the nearest, k-means++) and
    the best mean IoU in whole pixels is kept, if its recall is not below that of `start`.

    Args:
        boxes: (n, 2) of positive width and height.
        start: present anchors; what is returned where no clustering is better.
        rng: draws the starts.

    Raises:
        UserError: fewer boxes than anchors.
    """
    boxes = _checked(boxes, start)
    best, floor = sorted_anchors(start), fit_of(boxes, sorted_anchors(start))
    best_iou = floor.mean_iou
    for _ in range(_RESTARTS):
        found = sorted_anchors(_cluster(boxes, _draw_centres(boxes, start, rng)))
        fit = fit_of(boxes, found)
        if fit.mean_iou > best_iou and fit.recall >= floor.recall:
            best, best_iou = found, fit.mean_iou
    return best


def _draw_centres(boxes: np.ndarray, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """k different boxes, far apart; anchors of `start` where there are fewer different boxes."""
    centres = start.astype(boxes.dtype).copy()
    centres[0] = boxes[rng.integers(len(boxes))]
    distance = 1 - shape_iou(boxes, centres[:1])[0].astype(np.float64)
    for number in range(1, len(start)):
        distance[distance < 1e-6] = 0  # that very shape is a centre
        total = distance.sum()
        if total <= 0:
            break
        centres[number] = boxes[rng.choice(len(boxes), p=distance / total)]
        np.minimum(distance, 1 - shape_iou(boxes, centres[number : number + 1])[0], out=distance)
    return centres


def _cluster(boxes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Lloyd's iteration: each box to the centre of the highest IoU, each centre to the median of its boxes.

    The median is nearer to the best IoU than the mean, which a few large boxes pull up (measured on log-normal
    boxes: 0.597 against 0.575), but not the best: a round may lose, so the best round is returned.
    """
    best, best_iou, idle = centres, -1.0, 0
    for _ in range(_ROUNDS):
        overlap = shape_iou(boxes, centres)
        nearest = overlap.argmax(axis=0)
        mean_iou = float(overlap.max(axis=0).mean(dtype=np.float64))
        idle = 0 if mean_iou > best_iou + _GAIN else idle + 1
        if mean_iou > best_iou:
            best, best_iou = centres, mean_iou
        if idle == _PATIENCE:
            break
        centres = centres.copy()
        for number in range(len(centres)):
            members = boxes[nearest == number]
            if len(members):
                centres[number] = np.median(members, axis=0)
    return best


def refine_anchors(
    boxes: np.ndarray, start: np.ndarray, rng: np.random.Generator, generations: int = 3000
) -> np.ndarray:
    """Anchors (k, 2) bred from `start`: mutated children replace their parent where they fit better.

    A child differs in some sides by random factors; it survives if the mean IoU grows and the recall does not
    fall. So the result is in both never below `start`, in whole pixels.

    Args:
        boxes: (n, 2) of positive width and height.
        start: (k, 2) anchors to begin with.
        rng: draws the mutations.
        generations: children that are tried.

    Raises:
        UserError: fewer boxes than anchors.
    """
    boxes = _checked(boxes, start)
    parent = sorted_anchors(start)
    overlap = shape_iou(boxes, parent)
    best = overlap.max(axis=0)
    recall, mean_iou = (best > SECOND_PASS_OVERLAP).mean(), best.mean(dtype=np.float64)
    for _ in range(generations):
        chosen = np.flatnonzero(rng.random(len(parent)) < 2 / len(parent))
        factors = np.exp(rng.normal(0, 0.1, (len(chosen), 2)))
        mutated = np.maximum(np.rint(parent[chosen] * factors), 1).astype(np.int64)
        changed = (mutated != parent[chosen]).any(axis=1)
        chosen, mutated = chosen[changed], mutated[changed]
        if not len(chosen):
            continue
        child_overlap = overlap.copy()
        child_overlap[chosen] = shape_iou(boxes, mutated)
        best = child_overlap.max(axis=0)
        child_recall, child_iou = (best > SECOND_PASS_OVERLAP).mean(), best.mean(dtype=np.float64)
        if child_iou > mean_iou and child_recall >= recall:
            parent[chosen] = mutated
            overlap, recall, mean_iou = child_overlap, child_recall, child_iou
    return sorted_anchors(parent)


def _checked(boxes: np.ndarray, start: np.ndarray) -> np.ndarray:
    if len(boxes) < len(start):
        raise UserError(f"{len(boxes)} boxes are too few for {len(start)} anchors; keep the present anchors")
    return np.ascontiguousarray(boxes, np.float32)
