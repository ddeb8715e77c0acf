"""COCO's metrics: the twelve lines, AP a class and by aerial sizes, and the score threshold of the best F1.

Numbers and lines are those of pycocotools on the written JSON file. Classes are scored one after another,
so memory holds the matches of one class, not of all.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..annotations import read_annotations
from ..base.foreign_text import Lines, one_printable
from ..detect.detections import written_boxes
from ..logger import get_logger
from .matching import IOU_THRESHOLDS, Objects, best_f1, match_class, precision_and_recall

# Sides in pixels (roots of the areas) between the size buckets for aerial objects: those of AI-TOD (Wang et al.,
# ICPR 2020: 2-8 very tiny, 8-16 tiny, 16-32 small, 32-64 medium) and one further doubling.
SIZE_SIDES = (8, 16, 32, 64, 128)
SIZE_BUCKETS = {
    "below 8": (0, 8**2),
    **{f"{low} to {high}": (low**2, high**2) for low, high in pairwise(SIZE_SIDES)},
    "from 128": (128**2, 1e10),
}
# (AP or AR, IoU threshold or None for the mean, area, detections an image and class) of the twelve lines.
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
    """One class: AP over IoU 0.5..0.95, AP at 0.5, AR (each -1 without ground truth) and the best F1 at IoU 0.5.

    curve: precision at IoU 0.5 at the recalls 0, 0.01, ... 1, whose mean is ap50. recall50: recall at IoU 0.5 of at
    most 100 detections an image. detections: of the class, whatever their score.
    """

    name: str
    objects: int
    ap: float
    ap50: float
    recall: float
    best_f1: float
    best_threshold: float
    best_precision: float = 0.0
    best_recall: float = 0.0
    curve: tuple[float, ...] = ()
    recall50: float = -1.0
    detections: int = 0


@dataclass(frozen=True)
class SizeResult:
    """One size bucket: sides in pixels, objects, AP at IoU 0.5 over the classes (-1 without objects)."""

    name: str
    objects: int
    ap50: float


@dataclass(frozen=True)
class CocoResult:
    """stats: COCO's twelve numbers; ap50_all: AP at IoU 0.5 with `max_detections` an image and class.

    sizes: AP at IoU 0.5 of `SIZE_BUCKETS`, with `max_detections` too.
    """

    stats: tuple[float, ...]
    lines: str
    ap50_all: float
    max_detections: int
    classes: tuple[ClassResult, ...]
    sizes: tuple[SizeResult, ...] = ()

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
                rows.append(f"{one_printable(entry.name):<{width}}  {0:>7}  no ground truth: not in the mean")
                continue
            rows.append(
                f"{one_printable(entry.name):<{width}}  {entry.objects:>7}  {entry.ap:.3f}  {entry.ap50:.3f}  "
                f"{entry.recall:.3f}    {entry.best_f1:.3f}    {entry.best_threshold:.3f}"
            )
        return "\n".join(rows)

    def text(self) -> str:
        """The twelve lines, the line for crowded images, and the table."""
        return Lines(
            f"{self.lines}\n"
            f"mAP@0.5 with up to {self.max_detections} detections an image and class: {self.ap50_all:.3f}\n"
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
        image_ids: score only these images; all by default.
        max_detections: of the additional line for crowded images, over 100.

    Raises:
        UserError: the annotation file is damaged.
    """
    document = read_annotations(ann_file)
    known = np.unique([image["id"] for image in document["images"]] if image_ids is None else image_ids)
    truth = _objects_of_classes(document["annotations"], category_ids, known, ann_file)
    table = table[np.isin(table["image_id"], known)]
    counts = sorted({(area, count) for _, _, area, count in _LINES} | {("all", max_detections)})
    precision, recall = {key: [] for key in counts}, {key: [] for key in counts}
    of_size, objects_of_size = {name: [] for name in SIZE_BUCKETS}, Counter()
    classes = []
    for name, category_id in zip(class_names, category_ids):
        rows = table[table["category_id"] == category_id]
        found = (rows["image_id"], written_boxes(rows), rows["score"], max(100, max_detections))
        matches = match_class(truth[category_id], *found)
        by_size = match_class(truth[category_id], *found, SIZE_BUCKETS, IOU_THRESHOLDS[:1])
        objects_of_size.update(by_size.objects)
        for bucket in SIZE_BUCKETS:
            of_size[bucket].append(precision_and_recall(by_size, bucket, max_detections)[0])
        for key in counts:
            of_class = precision_and_recall(matches, *key)
            precision[key].append(of_class[0])
            recall[key].append(of_class[1])
        of_class = [_mean_of_valid(values["all", 100][-1]) for values in (precision, recall)]
        curve = precision["all", 100][-1][0]
        classes.append(
            ClassResult(
                name,
                matches.objects["all"],
                of_class[0],
                _mean_of_valid(curve),
                of_class[1],
                *best_f1(matches),
                tuple(curve.tolist()) if matches.objects["all"] else (),
                float(recall["all", 100][-1][0]),
                len(rows),
            )
        )
    stats = tuple(_statistic(precision, recall, *line) for line in _LINES)
    return CocoResult(
        stats=stats,
        lines="\n".join(_line(*line, value) for line, value in zip(_LINES, stats)),
        ap50_all=_statistic(precision, recall, "AP", 0.5, "all", max_detections),
        max_detections=max_detections,
        classes=tuple(classes),
        sizes=tuple(
            SizeResult(name, objects_of_size[name], _mean_of_valid(np.stack(values)))
            for name, values in of_size.items()
        ),
    )


def _objects_of_classes(annotations: list[dict], category_ids, image_ids, ann_file) -> dict[int, Objects]:
    """Ground truth of each class, by category id."""
    known = set(np.asarray(image_ids).tolist())
    of_class: dict[int, list] = {category_id: [] for category_id in category_ids}
    for annotation in annotations:
        if annotation["category_id"] in of_class and annotation["image_id"] in known:
            of_class[annotation["category_id"]].append(annotation)
    found = {}
    for category_id, entries in of_class.items():
        entries.sort(key=lambda entry: entry["image_id"])
        boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
        found[category_id] = Objects(
            image_ids=np.array([entry["image_id"] for entry in entries], np.int64),
            boxes=boxes,
            areas=np.array(
                [entry.get("area", w * h) for entry, (_, _, w, h) in zip(entries, boxes)], np.float64
            ),
            crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool),
            numbered=np.array([entry.get("id", 1) != 0 for entry in entries], bool),
        )
    if any(not objects.numbered.all() for objects in found.values()):
        get_logger().warning(
            "%s: an annotation has id 0, which COCO's metric never counts as found; number them from 1",
            ann_file,
        )
    return found


def _statistic(precision, recall, kind, iou, area, max_detections) -> float:
    """One of the twelve numbers: the mean over thresholds (and recalls) and the classes with ground truth."""
    values = np.stack((precision if kind == "AP" else recall)[area, max_detections], axis=-1)
    if iou is not None:
        values = values[np.isclose(IOU_THRESHOLDS, iou)]
    return _mean_of_valid(values)


def _mean_of_valid(values: np.ndarray) -> float:
    """Mean over the entries that have ground truth; -1 where none has, as pycocotools says it."""
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def _line(kind, iou, area, max_detections, value) -> str:
    title = "Average Precision" if kind == "AP" else "Average Recall"
    span = "0.50:0.95" if iou is None else f"{iou:0.2f}"
    return f" {title:<18} ({kind}) @[ IoU={span:<9} | area={area:>6s} | maxDets={max_detections:>3d} ] = {value:0.3f}"
