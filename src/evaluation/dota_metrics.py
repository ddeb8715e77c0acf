"""DOTA's metric for horizontal boxes (Task 2): VOC average precision at IoU 0.5 of whole scenes.

The rule (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html, section 3.4): detections of
a class are taken by falling score over all scenes; each is judged by the object of its scene that it
overlaps most. Above the threshold it is right if it is the first to claim that object and wrong if not;
where the object is marked `difficult`, it is neither. All others are wrong. `difficult` objects need not be
found.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..base.errors import UserError
from ..base.foreign_text import Lines, one_printable
from ..detect.postprocess import Detections
from ..imaging.boxes import iou

_ELEMENTS_AT_ONCE = 1 << 21  # of an overlap matrix; bounds the memory on scenes with very many boxes


@dataclass(frozen=True)
class SceneObjects:
    """Ground truth of one scene: boxes (n, 4) x1 y1 x2 y2 in scene pixels, classes (n,), difficult (n,) bool."""

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


@dataclass(frozen=True)
class DotaClassResult:
    """One class: AP (nan without objects), the recall reached, objects to be found and detections counted."""

    name: str
    ap: float
    recall: float
    objects: int
    detections: int


@dataclass(frozen=True)
class DotaResult:
    """Results of all classes; `mean_ap` is over those with objects (nan if none has)."""

    classes: tuple[DotaClassResult, ...]
    iou_threshold: float

    @property
    def mean_ap(self) -> float:
        """Mean of AP over the classes with objects."""
        values = [entry.ap for entry in self.classes if entry.objects]
        return float(np.mean(values)) if values else float("nan")

    def table(self) -> str:
        """AP a class and the mean as text."""
        width = max(len("class"), *(len(entry.name) for entry in self.classes))
        rows = [f"{'class':<{width}}  objects  detections     AP  recall"]
        for entry in self.classes:
            numbers = (
                f"{entry.ap:.3f}   {entry.recall:.3f}" if entry.objects else "no objects: not in the mean"
            )
            rows.append(
                f"{one_printable(entry.name):<{width}}  {entry.objects:>7}  {entry.detections:>10}  {numbers}"
            )
        rows.append(f"mAP@{self.iou_threshold:g} (DOTA Task 2, VOC): {self.mean_ap:.4f}")
        return Lines("\n".join(rows))


def evaluate_dota(
    truth: Mapping[str, SceneObjects],
    found: Mapping[str, Detections],
    class_names: tuple[str, ...],
    *,
    iou_threshold: float = 0.5,
    whole_pixels: bool = True,
) -> DotaResult:
    """Score detections of whole scenes.

    Args:
        truth: objects of each scene, by its name.
        found: detections of each scene in scene pixels; a scene may be missing.
        class_names: names of the classes.
        iou_threshold: overlap from which, exclusively, a detection is right.
        whole_pixels: widths and heights are counted with + 1, as DOTA's and VOC's tools do.

    Raises:
        UserError: a scene with detections has no ground truth.
    """
    unknown = sorted(set(found) - set(truth))
    if unknown:
        raise UserError(
            f"{unknown[0]}: detections but no label file for this scene ({len(unknown)} such scenes)"
        )
    results = []
    for label, name in enumerate(class_names):
        scores, outcomes = [], []
        objects = 0
        for scene in sorted(truth):
            of_class = truth[scene].classes == label
            difficult = np.asarray(truth[scene].difficult, bool)[of_class]
            objects += int((~difficult).sum())
            if scene not in found:
                continue
            chosen = np.flatnonzero(found[scene].classes == label)
            chosen = chosen[np.argsort(-found[scene].scores[chosen], kind="stable")]
            boxes = found[scene].boxes[chosen]
            scores.append(found[scene].scores[chosen])
            outcomes.append(
                _judge(boxes, truth[scene].boxes[of_class], difficult, iou_threshold, float(whole_pixels))
            )
        score = np.concatenate(scores or [np.zeros(0)])
        outcome = np.concatenate(outcomes or [np.zeros(0, np.int8)])[np.argsort(-score, kind="stable")]
        results.append(_class_result(name, outcome, objects))
    return DotaResult(tuple(results), iou_threshold)


def _judge(boxes, objects, difficult, threshold: float, offset: float) -> np.ndarray:
    """(n,) 1 right, 0 wrong, -1 neither, of the detections of a class in a scene, sorted by falling score."""
    outcome = np.zeros(len(boxes), np.int8)
    if not len(boxes) or not len(objects):
        return outcome
    boxes, objects = boxes.astype(np.float64), objects.astype(np.float64)
    nearest, overlap = np.empty(len(boxes), int), np.empty(len(boxes))
    rows = max(1, _ELEMENTS_AT_ONCE // len(objects))
    for start in range(0, len(boxes), rows):
        overlaps = iou(boxes[start : start + rows, None], objects, offset)
        nearest[start : start + rows] = overlaps.argmax(axis=1)
        overlap[start : start + rows] = overlaps.max(axis=1)
    above = np.flatnonzero(overlap > threshold)
    _, first = np.unique(nearest[above], return_index=True)  # of each claimed object, the best detection
    outcome[above[first]] = 1
    outcome[above[difficult[nearest[above]]]] = -1
    return outcome


def _class_result(name: str, outcome: np.ndarray, objects: int) -> DotaClassResult:
    outcome = outcome[outcome >= 0]
    if not objects:
        return DotaClassResult(name, float("nan"), float("nan"), 0, len(outcome))
    right = np.cumsum(outcome == 1)
    recall, precision = right / objects, right / np.arange(1, len(right) + 1)
    ap = average_precision(recall, precision)
    return DotaClassResult(name, ap, float(recall[-1]) if len(recall) else 0.0, objects, len(outcome))


def average_precision(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC average precision of a curve of rising recall (n,): the area under its envelope."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
