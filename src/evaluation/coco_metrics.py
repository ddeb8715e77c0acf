"""COCO's metrics by pycocotools: the twelve lines, AP a class, and the score threshold of the best F1.

Classes are scored one after another, so memory holds the detections of one class, not of all. Numbers and
lines are those of pycocotools on the written JSON file.
"""

from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.evaluation.detections import written_boxes
from src.yolo_dataset import read_annotations

_COCO_MAX_DETECTIONS = (1, 10, 100)
_AREAS = ("all", "small", "medium", "large")
# (AP or AR, IoU threshold or None for the mean, area, detections a picture and class) of the twelve lines.
_LINES = (
    ("AP", None, "all", 100),
    ("AP", 0.5, "all", 100),
    ("AP", 0.75, "all", 100),
    ("AP", None, "small", 100),
    ("AP", None, "medium", 100),
    ("AP", None, "large", 100),
    ("AR", None, "all", 1),
    ("AR", None, "all", 10),
    ("AR", None, "all", 100),
    ("AR", None, "small", 100),
    ("AR", None, "medium", 100),
    ("AR", None, "large", 100),
)


@dataclass(frozen=True)
class ClassResult:
    """One class: AP over IoU 0.5..0.95, AP at 0.5, AR (each -1 without ground truth) and the best F1 at IoU 0.5."""

    name: str
    objects: int
    ap: float
    ap50: float
    recall: float
    best_f1: float
    best_threshold: float


@dataclass(frozen=True)
class CocoResult:
    """stats: COCO's twelve numbers; ap50_all: AP at IoU 0.5 with `max_detections` a picture and class."""

    stats: tuple[float, ...]
    lines: str
    ap50_all: float
    max_detections: int
    classes: tuple[ClassResult, ...]

    @property
    def mean_ap(self) -> float:
        """AP over IoU 0.5..0.95, the first of the twelve."""
        return self.stats[0]

    def table(self) -> str:
        """AP a class as text."""
        width = max(len("class"), *(len(entry.name) for entry in self.classes))
        rows = [f"{'class':<{width}}  objects     AP   AP50     AR  best F1 at score"]
        for entry in self.classes:
            if entry.objects == 0:
                rows.append(f"{entry.name:<{width}}  {0:>7}  no ground truth: not in the mean")
                continue
            rows.append(
                f"{entry.name:<{width}}  {entry.objects:>7}  {entry.ap:.3f}  {entry.ap50:.3f}  "
                f"{entry.recall:.3f}    {entry.best_f1:.3f}    {entry.best_threshold:.3f}"
            )
        return "\n".join(rows)

    def report(self) -> str:
        """The twelve lines, the line for crowded pictures, and the table."""
        return (
            f"{self.lines}\n"
            f"mAP@0.5 with up to {self.max_detections} detections a picture and class: {self.ap50_all:.3f}\n"
            f"{self.table()}"
        )


def evaluate_coco(
    ann_file: Path,
    table: np.ndarray,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    *,
    image_ids: list[int] | None = None,
    max_detections: int = 1000,
) -> CocoResult:
    """Score detections against an annotation file.

    Args:
        ann_file: ground truth.
        table: rows of `DETECTION`.
        class_names: names of the classes.
        category_ids: COCO category id of each class.
        image_ids: score only these pictures; all by default.
        max_detections: of the additional line for crowded pictures, over 100.

    Raises:
        UserError: the annotation file is damaged.
    """
    document = _with_defaults(read_annotations(ann_file))
    truth = _as_coco(document, document["annotations"])
    image_ids = sorted(truth.imgs) if image_ids is None else sorted(image_ids)
    counts = (*_COCO_MAX_DETECTIONS, max(max_detections, 101))
    precision, recall, classes = [], [], []
    for name, category_id in zip(class_names, category_ids):
        rows = table[table["category_id"] == category_id]
        evaluation = _evaluate_class(truth, document, rows, category_id, image_ids, counts)
        precision.append(evaluation.eval["precision"])
        recall.append(evaluation.eval["recall"])
        objects = sum(
            not truth.anns[ann_id]["iscrowd"]
            for ann_id in truth.getAnnIds(imgIds=image_ids, catIds=[category_id])
        )
        f1, threshold = _best_f1(evaluation, objects)
        classes.append(
            ClassResult(
                name,
                objects,
                _mean(precision[-1][..., 0, 2]),
                _mean(precision[-1][0, ..., 0, 2]),
                _mean(recall[-1][..., 0, 2]),
                f1,
                threshold,
            )
        )
    precision, recall = np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)
    stats = tuple(_statistic(precision, recall, *line) for line in _LINES)
    return CocoResult(
        stats=stats,
        lines="\n".join(_line(*line, value) for line, value in zip(_LINES, stats)),
        ap50_all=_mean(precision[0, :, :, 0, 3]),
        max_detections=counts[-1],
        classes=tuple(classes),
    )


def _with_defaults(document: dict) -> dict:
    """Annotations with the keys that pycocotools reads."""
    annotations = []
    for number, annotation in enumerate(document["annotations"], start=1):
        _, _, width, height = annotation["bbox"]
        annotations.append({"id": number, "area": width * height, "iscrowd": 0, **annotation})
    return {**document, "annotations": annotations}


def _as_coco(document: dict, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {**document, "annotations": annotations}
    with redirect_stdout(StringIO()):  # it prints progress that nobody asked for
        coco.createIndex()
    return coco


def _evaluate_class(truth, document, rows, category_id, image_ids, counts) -> COCOeval:
    boxes = written_boxes(rows)
    found = [
        {
            "id": number,
            "image_id": int(row["image_id"]),
            "category_id": category_id,
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": 0,
            "score": float(row["score"]),
        }
        for number, (row, box) in enumerate(zip(rows, boxes), start=1)
    ]
    evaluation = COCOeval(truth, _as_coco(document, found), "bbox")
    evaluation.params.imgIds = image_ids
    evaluation.params.catIds = [category_id]
    evaluation.params.maxDets = list(counts)
    with redirect_stdout(StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _best_f1(evaluation: COCOeval, objects: int) -> tuple[float, float]:
    """Largest F1 at IoU 0.5 over all score thresholds, and that threshold; 0 where nothing is right."""
    images = [image for image in evaluation.evalImgs[: len(evaluation.params.imgIds)] if image]
    if not images or not objects:
        return 0.0, 0.0
    scores = np.concatenate([image["dtScores"] for image in images])
    matched = np.concatenate([image["dtMatches"][0] > 0 for image in images])
    counted = ~np.concatenate([image["dtIgnore"][0].astype(bool) for image in images])
    scores, matched = scores[counted], matched[counted]
    if not len(scores):
        return 0.0, 0.0
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(matched[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + objects)
    best = int(f1.argmax())
    return float(f1[best]), float(scores[order][best])


def _statistic(precision, recall, kind, iou, area, max_detections) -> float:
    columns = (..., _AREAS.index(area), _COCO_MAX_DETECTIONS.index(max_detections))
    values = precision[columns] if kind == "AP" else recall[columns]
    if iou is not None:
        values = values[round((iou - 0.5) / 0.05)]
    return _mean(values)


def _mean(values: np.ndarray) -> float:
    """Mean over the entries that have ground truth; -1 where none has, as pycocotools says it."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _line(kind, iou, area, max_detections, value) -> str:
    title = "Average Precision" if kind == "AP" else "Average Recall"
    span = "0.50:0.95" if iou is None else f"{iou:0.2f}"
    return f" {title:<18} ({kind}) @[ IoU={span:<9} | area={area:>6s} | maxDets={max_detections:>3d} ] = {value:0.3f}"
