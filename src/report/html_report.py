"""The report of a run: what is known so far, written to `report.html` each time that more is known."""

from datetime import datetime
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write
from ..evaluation.analysis import pair_images, score_thresholds
from ..evaluation.coco_metrics import CocoResult
from ..yolo_dataset import DetectionSet
from . import sections
from .history import EpochRow
from .page import page

FILE_NAME = "report.html"


class Report:
    """Collects the parts of a report and writes them; rank 0 alone has one.

    Args:
        folder: where `report.html` goes.
        title: heading of the page.
        sets: (title, set) of which statistics are shown.
        max_epoch: epochs of the whole run; 0 for an evaluation alone.
    """

    def __init__(self, folder: Path, title: str, sets: list[tuple[str, DetectionSet]], max_epoch: int = 0):
        self.path = folder / FILE_NAME
        self.title, self.max_epoch = title, max_epoch
        self.class_names = sets[0][1].class_names
        self.data = sections.section("data", "Data", sections.data(sets))
        self.evaluation, self.scores = "", []

    def add_evaluation(
        self, result: CocoResult, table: np.ndarray, dataset: DetectionSet, epoch: int = 0
    ) -> None:
        """Take in an evaluation, the last one so far: its metrics, detections and ground truth.

        Raises:
            UserError: an image of the gallery cannot be read.
        """
        images = pair_images(dataset, table, score_thresholds(result))
        after = f" after epoch {epoch}" if epoch else ""
        self.scores = [
            (f"AP{after}", f"{result.mean_ap:.3f}"),
            ("mAP@0.5", f"{result.stats[1]:.3f}"),
            (f"mAP@0.5, up to {result.max_detections} detections", f"{result.ap50_all:.3f}"),
        ]
        self.evaluation = sections.evaluation(result, images, self.class_names)

    def write(self, rows: list[EpochRow], is_running: bool = False) -> None:
        """Write the page as things are, whole or not at all.

        Raises:
            UserError: the folder cannot be written to.
        """
        facts = [("epochs", f"{rows[-1].epoch} of {self.max_epoch}")] if rows else []
        facts += [("loss of the last epoch", f"{rows[-1].loss:.1f}")] if rows else []
        facts += self.scores
        best = max((row for row in rows if row.ap >= 0), key=lambda row: row.ap, default=None)
        if best:
            facts.append((f"best AP, epoch {best.epoch}", f"{best.ap:.3f}"))
        parts = [sections.section("curves", "Curves", sections.curves(rows))] if rows else []
        if self.evaluation:
            parts.append(self.evaluation)
        text = page(
            self.title,
            sections.headline(facts),
            [*parts, self.data],
            self.class_names,
            note=f"Written {datetime.now():%Y-%m-%d %H:%M:%S}.",
            reload=is_running,
        )
        with atomic_write(self.path) as handle:
            handle.write(text)
