"""What an evaluation says beyond AP: which classes are taken for which, and how well each image went.

Detections from a score threshold a class are paired with objects of any class, so that a ship taken for a
harbour is one mistake of its own and not a miss and a false alarm.
"""

from dataclasses import dataclass

import numpy as np

from ..imaging.boxes import from_corner, to_corner
from ..yolo_dataset import DetectionSet, ImageRecord
from .coco_metrics import CocoResult
from .matching import coco_iou

PAIR_IOU = 0.5
FALLBACK_SCORE = 0.3  # threshold of a class of which nothing was found, so that no F1 recommends one


@dataclass(frozen=True)
class PairedImage:
    """One image's objects and the detections that count, and how they pair.

    Attributes:
        record: the image with its ground truth.
        boxes: (n, 4) float32 x1 y1 x2 y2 of the detections from the thresholds on.
        classes: (n,) int.
        scores: (n,).
        object_of: (n,) number of the object that each detection is paired with; -1 none, -2 none, but it lies
            on an ignored region and is no mistake.
    """

    record: ImageRecord
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    object_of: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(n,) bool: detections that are paired with an object of their class."""
        right = self.object_of >= 0
        right[right] = self.record.classes[self.object_of[right]] == self.classes[right]
        return right

    @property
    def found(self) -> np.ndarray:
        """(objects,) bool: objects that a detection of their class is paired with."""
        found = np.zeros(len(self.record.boxes), bool)
        found[self.object_of[self.right]] = True
        return found

    @property
    def mistakes(self) -> int:
        """Objects missed and detections that are wrong."""
        wrong = ~self.right & (self.object_of != -2)
        return int(wrong.sum()) + int((~self.found).sum())

    @property
    def f1(self) -> float:
        """2 right / (objects + detections); -1 where there is neither."""
        counted = len(self.record.boxes) + int((self.object_of != -2).sum())
        return 2 * int(self.right.sum()) / counted if counted else -1.0


def score_thresholds(result: CocoResult) -> np.ndarray:
    """(classes,) the score threshold of each class's best F1; 0.3 for a class of which nothing was found."""
    return np.array(
        [entry.best_threshold if entry.best_f1 > 0 else FALLBACK_SCORE for entry in result.classes]
    )


def pair_images(dataset: DetectionSet, table: np.ndarray, thresholds: np.ndarray) -> list[PairedImage]:
    """Each image's detections from the thresholds on, paired with its objects.

    Pairs of IoU 0.5 or more are taken one after another, the largest IoU first, each object and each detection
    once. Of equal IoU the right class comes first, then the higher score.

    Args:
        dataset: the ground truth.
        table: rows of `DETECTION`.
        thresholds: (classes,) lowest score that counts.
    """
    class_of = {category_id: index for index, category_id in enumerate(dataset.category_ids)}
    classes = np.array([class_of[category_id] for category_id in table["category_id"].tolist()], int)
    # A threshold is a score of this table, in its precision.
    counted = table["score"] >= np.asarray(thresholds, np.float32)[classes]
    table, classes = table[counted], classes[counted]
    order = np.argsort(table["image_id"], kind="stable")
    table, classes = table[order], classes[order]
    results = []
    for record in dataset.records:
        rows = slice(*np.searchsorted(table["image_id"], [record.id, record.id + 1]))
        corners = from_corner(table["bbox"][rows])
        scores = table["score"][rows]
        object_of = _pair(record, corners, classes[rows], scores)
        results.append(PairedImage(record, corners, classes[rows], scores, object_of))
    return results


def _pair(record: ImageRecord, boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """`object_of` of an image's detections."""
    object_of = np.full(len(boxes), -1)
    overlaps = _overlaps(boxes, record.boxes, crowd=False)
    rows, columns = np.nonzero(overlaps >= PAIR_IOU)
    other = classes[rows] != record.classes[columns]
    taken = set()
    for place in np.lexsort((-scores[rows], other, -overlaps[rows, columns])):
        row, column = int(rows[place]), int(columns[place])
        if object_of[row] < 0 and column not in taken:
            object_of[row] = column
            taken.add(column)
    ignored = (_overlaps(boxes, record.ignored, crowd=True) >= PAIR_IOU).any(axis=1)
    object_of[ignored & (object_of < 0)] = -2
    return object_of


def _overlaps(boxes: np.ndarray, others: np.ndarray, crowd: bool) -> np.ndarray:
    """(n, m) IoU of x1 y1 x2 y2; with `crowd` the share of a box of the first that lies in one of the others."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    ours, theirs = (to_corner(group).astype(np.float64) for group in (boxes, others))
    return coco_iou(ours, theirs, np.full(len(others), crowd))


def confusion_matrix(images: list[PairedImage], num_classes: int) -> np.ndarray:
    """(C + 1, C + 1) counts: row the object's class, column the detection's; the last is background.

    So the last column holds objects missed, the last row detections where there is no object.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for image in images:
        paired = image.object_of >= 0
        objects = image.object_of[paired]
        np.add.at(matrix, (image.record.classes[objects], image.classes[paired]), 1)
        missed = np.ones(len(image.record.boxes), bool)
        missed[objects] = False
        np.add.at(matrix[:, num_classes], image.record.classes[missed], 1)
        np.add.at(matrix[num_classes], image.classes[image.object_of == -1], 1)
    return matrix
