"""What `recommend_threshold` leaves: the score of each class's best F1, precision and recall as tables, images sorted.

Names of files, folders and columns are the model zoo's. Its columns `ar@0.5` and `ar@0.75` hold AR with 10 and with 100
detections, and `ar@0.5:0.95` that with 1, as COCO's lines come; they do here too.
"""

import csv
import shutil
from pathlib import Path

from ..base.atomic import atomic_write
from ..base.foreign_text import cell
from .analysis import PairedImage, score_thresholds
from .coco_metrics import CocoResult

STATISTICS, BEST_THRESHOLD = "statistics.csv", "best_threshold.csv"
RIGHT, FALSE_ALARM, MISS = "ok_images", "precision_ng_images", "recall_ng_images"


def write_recommendation(folder: Path, result: CocoResult, drawn: list[tuple[PairedImage, Path]]) -> None:
    """Write both tables, and copy each drawn image to where its mistakes belong.

    Args:
        folder: gets the tables and a folder for each kind of image; what was there is replaced.
        result: the metrics.
        drawn: images paired at the recommended scores, and the files they were drawn to.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_rows(folder / STATISTICS, statistics_rows(result))
    _write_rows(folder / BEST_THRESHOLD, threshold_rows(result))
    for kind in (RIGHT, FALSE_ALARM, MISS):
        shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / kind).mkdir()
    for image, path in drawn:
        for kind in kinds_of(image):
            with atomic_write(folder / kind / path.name, binary=True) as handle:
                handle.write(path.read_bytes())


def kinds_of(image: PairedImage) -> list[str]:
    """`RIGHT`, or `FALSE_ALARM` for a detection of no object of its class, `MISS` for an object not found, or both."""
    kinds = []
    if (~image.right & (image.object_of != -2)).any():
        kinds.append(FALSE_ALARM)
    if not image.found.all():
        kinds.append(MISS)
    return kinds or [RIGHT]


def statistics_rows(result: CocoResult) -> list[list]:
    """AP and AR of all classes, and counts, precision and recall of each at IoU 0.5, at most 100 a class and image.

    Precision is of all detections, whatever their score, as published; -1 where there is neither object nor detection.
    """
    rows: list[list] = [
        ["ap@0.5:0.95", "ap@0.5", "ap@0.75", "ar@0.5:0.95", "ar@0.5", "ar@0.75"],
        [round(result.stats[place], 3) for place in (0, 1, 2, 6, 7, 8)],
        [],
        ["class_name", "tp_num", "gt_num", "dt_num", "precision", "recall"],
    ]
    total_right, total_objects, total_found = 0.0, 0, 0
    for entry in result.classes:
        right = max(entry.recall50, 0.0) * entry.objects
        rows.append(_counts(entry.name, right, entry.objects, entry.detections, entry.recall50))
        total_right += right
        total_objects += entry.objects
        total_found += entry.detections
    recall = total_right / total_objects if total_objects else -1.0
    return [*rows, _counts("all", total_right, total_objects, total_found, recall)]


def _counts(name: str, right: float, objects: int, found: int, recall: float) -> list:
    precision = right / found if found else (0.0 if objects else -1.0)
    return [name, round(right), objects, found, round(precision, 3), round(recall, 3)]


def threshold_rows(result: CocoResult) -> list[list]:
    """The score of the best F1 of each class that has objects, with F1, precision and recall there."""
    rows: list[list] = [["cat_name", "best_f1", "best_precision", "best_recall", "best_score"]]
    for entry, score in zip(result.classes, score_thresholds(result).tolist()):
        if entry.objects:
            rows.append([cell(entry.name), entry.best_f1, entry.best_precision, entry.best_recall, score])
    return rows


def _write_rows(path: Path, rows: list[list]) -> None:
    with atomic_write(path) as handle:
        csv.writer(handle, lineterminator="\n").writerows(rows)
