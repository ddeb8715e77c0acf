"""What a training run tells the world beside its log: `results.csv`, `report.html` and TensorBoard's event files.

The training loop says what happened, once an epoch and once an evaluation; here it becomes rows, pages and events.
One rank writes; on the others, and while a profile is taken, all of this is silent.
"""

import math
from dataclasses import replace
from pathlib import Path

from ..evaluation.session import Evaluation
from ..yolo_dataset import DetectionSet
from . import history
from .events import EventFiles
from .html_report import Report


class RunResults:
    """The results of one run so far.

    Args:
        folder: the run's folder.
        sets: (title, set) of which the report shows statistics.
        max_epoch: epochs of the whole run.
        is_writer: whether this process writes at all.
        with_events: write TensorBoard's event files too.

    Raises:
        UserError: event files are wanted and tensorboardX is not installed.
    """

    def __init__(
        self,
        folder: Path,
        sets: list[tuple[str, DetectionSet]],
        max_epoch: int,
        *,
        is_writer: bool,
        with_events: bool,
    ):
        self.path = folder / history.FILE_NAME
        self.rows: list[history.EpochRow] = []
        self.report = Report(folder, f"Training {folder.name}", sets, max_epoch) if is_writer else None
        self.events = EventFiles(folder / "tensorboard") if is_writer and with_events else None

    def continue_from(self, folder: Path, last_epoch: int) -> None:
        """Take over an earlier run's rows, up to an epoch.

        Raises:
            UserError: that run's `results.csv` is damaged.
        """
        if self.report:
            self.rows = [
                row for row in history.read_history(folder / history.FILE_NAME) if row.epoch <= last_epoch
            ]
            if self.rows:
                history.write_history(self.path, self.rows)

    def add_epoch(self, row: history.EpochRow) -> None:
        """A row of an epoch that has just ended; an evaluation completes it."""
        self._put(row)
        if self.events:
            losses = {
                "total": row.loss,
                "box": row.box,
                "objectness": row.objectness,
                "class": row.class_loss,
            }
            scalars = {f"loss/{name}": value for name, value in losses.items()}
            speed = {"train/lr": row.lr, "train/pictures_per_second": row.pictures_per_second}
            self.events.add(row.step, {**scalars, **speed})

    def add_evaluation(self, step: int, epoch: int, evaluation: Evaluation, dataset: DetectionSet) -> None:
        """The score of an epoch whose row is there.

        Raises:
            UserError: an image of the report's gallery cannot be read.
        """
        ap, ap50 = (value if value >= 0 else math.nan for value in evaluation.result.stats[:2])
        if self.events:
            self.events.add(step, {"validation/ap": ap, "validation/ap50": ap50})
        if self.report:
            row = next(row for row in self.rows if row.epoch == epoch)
            self._put(replace(row, ap=ap, ap50=ap50))
            self.report.add_evaluation(evaluation.result, evaluation.table, dataset, epoch)

    def write_report(self, is_running: bool = False) -> None:
        """The page as things are; one of a run that goes on reloads itself.

        Raises:
            UserError: the folder cannot be written to.
        """
        if self.report:
            self.report.write(self.rows, is_running)

    def close(self) -> None:
        """Nothing more will come."""
        if self.events:
            self.events.close()

    def _put(self, row: history.EpochRow) -> None:
        if self.report:
            self.rows = history.with_row(self.rows, row)
            history.write_history(self.path, self.rows)
