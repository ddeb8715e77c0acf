"""Detections of one class matched to ground truth by COCO's rules, and precision and recall from that.

The rules are those of pycocotools (https://cocodataset.org/#detection-eval), and so are the numbers, to the
last digit; the overlaps are computed by it. What differs is the form: arrays instead of a dictionary for
each detection, and only detections that overlap an object at all are looked at one by one. Two million
detections take seconds and tens of megabytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import Params

_PARAMS = Params(iouType="bbox")
IOU_THRESHOLDS = _PARAMS.iouThrs  # 0.50, 0.55, ... 0.95
RECALL_THRESHOLDS = _PARAMS.recThrs  # 0, 0.01, ... 1
AREAS = dict(zip(_PARAMS.areaRngLbl, _PARAMS.areaRng))  # all, small, medium, large: range in square pixels
WRONG, RIGHT, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Objects:
    """Ground truth of one class, sorted by image.

    boxes (n, 4) float64 x y w h, areas (n,), crowd (n,) bool, image_ids (n,); `numbered` (n,) bool: the
    annotation's id is not 0 (pycocotools takes a match with object 0 for none).
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    numbered: np.ndarray

    def ignored(self, low: float, high: float) -> np.ndarray:
        """(n,) bool: crowds, and objects outside an area range: neither to be found nor a mistake if found."""
        return self.crowd | (self.areas < low) | (self.areas > high)


@dataclass(frozen=True)
class Matches:
    """Detections of one class after matching.

    Attributes:
        scores: (n,).
        ranks: (n,) position among those of their image, best first.
        outcome: for each area range (IoU thresholds, n) uint8 of WRONG, RIGHT, IGNORED.
        objects: for each area range the number of objects to be found.
    """

    scores: np.ndarray
    ranks: np.ndarray
    outcome: dict[str, np.ndarray]
    objects: dict[str, int]


def match_class(
    objects: Objects,
    image_ids: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    max_detections: int,
    areas: Mapping[str, tuple[float, float]] = AREAS,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
) -> Matches:
    """Match detections of one class, image by image, best scores first.

    Args:
        objects: ground truth of the class.
        image_ids: (n,) image of each detection.
        boxes: (n, 4) float64 x y w h.
        scores: (n,).
        max_detections: most detections of the class in an image; the best count.
        areas: ranges of square pixels by name, both ends included.
        iou_thresholds: ascending.
    """
    order = np.lexsort((-scores, image_ids))  # stable: equal scores stay in their order
    image_ids = image_ids[order]
    _, starts, counts = np.unique(image_ids, return_index=True, return_counts=True)
    ranks = np.arange(len(order)) - np.repeat(starts, counts)
    counted = ranks < max_detections
    order, image_ids, ranks = order[counted], image_ids[counted], ranks[counted]
    boxes, scores = boxes[order], scores[order]
    sizes = boxes[:, 2] * boxes[:, 3]
    outcome, ignored = {}, {}
    for area, (low, high) in areas.items():
        outside = (sizes < low) | (sizes > high)
        outcome[area] = np.tile(np.where(outside, IGNORED, WRONG).astype(np.uint8), (len(iou_thresholds), 1))
        ignored[area] = objects.ignored(low, high)
    images, starts = np.unique(objects.image_ids, return_index=True)
    ends = np.append(starts[1:], len(objects.image_ids))
    first = np.searchsorted(image_ids, images)
    last = np.searchsorted(image_ids, images, side="right")
    for start, end, low, high in zip(starts, ends, first, last):
        if low < high:
            truth = slice(start, end)
            overlaps = coco_iou(boxes[low:high], objects.boxes[truth], objects.crowd[truth])
            pairs = _pairs(overlaps, iou_thresholds[0])
            for area in areas if pairs else ():
                _match_image(
                    pairs,
                    ignored[area][truth].tolist(),
                    objects.crowd[truth].tolist(),
                    objects.numbered[truth].tolist(),
                    iou_thresholds.tolist(),
                    outcome[area][:, low:high],
                )
    to_be_found = {area: int((~ignored[area]).sum()) for area in areas}
    return Matches(scores, ranks, outcome, to_be_found)


def coco_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """pycocotools' IoU (n, m) of float64 x y w h; with objects that are crowds, the share of the box in them."""
    return mask.iou(boxes, objects, crowd.astype(np.uint8))


def _pairs(overlaps: np.ndarray, lowest: float) -> list[tuple[int, list[tuple[int, float]]]]:
    """For each detection that overlaps enough, in order: its number and (object, IoU) of those it overlaps."""
    found: dict[int, list] = {}
    rows, columns = np.nonzero(overlaps >= lowest)
    for row, column, overlap in zip(rows.tolist(), columns.tolist(), overlaps[rows, columns].tolist()):
        found.setdefault(row, []).append((column, overlap))
    return list(found.items())


def _match_image(
    pairs, ignored: list, crowd: list, numbered: list, iou_thresholds: list, outcome: np.ndarray
) -> None:
    """Greedy matching in one image and area range, written to `outcome` (IoU thresholds, detections).

    A detection takes the object with the largest IoU of those not taken yet (the last of equal ones);
    an ignored object only where no other passes; a crowd may be taken again and again.
    """
    if any(ignored):
        pairs = [(row, sorted(near, key=lambda pair: ignored[pair[0]])) for row, near in pairs]
    for level, threshold in enumerate(iou_thresholds):
        taken = set()
        for row, near in pairs:
            best, best_overlap = -1, threshold
            for number, overlap in near:
                if number in taken and not crowd[number]:
                    continue
                if best >= 0 and ignored[number] and not ignored[best]:
                    break
                if overlap >= best_overlap:
                    best, best_overlap = number, overlap
            if best >= 0:
                taken.add(best)
                if ignored[best]:
                    outcome[level, row] = IGNORED
                elif numbered[best]:
                    outcome[level, row] = RIGHT


def precision_and_recall(matches: Matches, area: str, max_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated precision at 101 recalls (t, 101) and the largest recall (t,), for each IoU threshold.

    All -1 where the class has no object to be found.
    """
    levels = len(matches.outcome[area])
    precision = np.full((levels, len(RECALL_THRESHOLDS)), -1.0)
    recall = np.full(levels, -1.0)
    if matches.objects[area] == 0:
        return precision, recall
    counted = np.flatnonzero(matches.ranks < max_detections)
    counted = counted[np.argsort(-matches.scores[counted], kind="stable")]
    for level in range(levels):
        outcome = matches.outcome[area][level, counted]
        outcome = outcome[outcome != IGNORED]
        right = np.cumsum(outcome == RIGHT)
        share_found = right / matches.objects[area]
        share_right = right / (np.arange(1, len(right) + 1) + np.spacing(1))
        share_right = np.maximum.accumulate(share_right[::-1])[::-1]
        at = np.searchsorted(share_found, RECALL_THRESHOLDS, side="left")
        precision[level] = np.append(share_right, 0.0)[at]
        recall[level] = share_found[-1] if len(right) else 0.0
    return precision, recall


def best_f1(matches: Matches) -> tuple[float, float, float, float]:
    """Largest F1 at IoU 0.5 over all score thresholds, that threshold, and precision and recall at it.

    Zeros where nothing is right.
    """
    counted = matches.outcome["all"][0] != IGNORED
    scores, right = matches.scores[counted], matches.outcome["all"][0][counted] == RIGHT
    if not right.any():
        return 0.0, 0.0, 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(right[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + matches.objects["all"])
    f1[:-1][scores[:-1] == scores[1:]] = 0  # a threshold cannot part equal scores
    best = int(f1.argmax())
    precision, recall = right[best] / (best + 1), right[best] / matches.objects["all"]
    return float(f1[best]), float(scores[best]), float(precision), float(recall)
