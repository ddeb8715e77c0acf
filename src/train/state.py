"""Where a run is: written to a checkpoint and restored from it here.

`build.py` gathers the parameters that belong to it; `start.py` compares the options that it carries with those of the
resumed run.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
import numpy as np

from ..base.errors import UserError
from ..config import RUN_OPTIONS, Config
from ..logger import get_logger
from ..weights.carried import carried_options
from ..weights.checkpoint import save_checkpoint
from .loss_meter import LossMeter
from .run_folder import BEST
from .start import Start


@dataclass
class TrainState:
    """Where a run is.

    Attributes:
        weights: the network's parameters, without what training adds to it.
        slots: what optimizer, moving average and loss scale remember from step to step.
        updates: the optimizer's own count of steps, fewer than `step` where gradients overflowed.
        steps_per_epoch: steps of this rank in an epoch.
        group_size: ranks that train.
        step: steps done, over all epochs.
        best_map, best_epoch: of the evaluations so far; -1 and 0 where there was none.
        best_path: the checkpoint of that epoch, in whichever run's folder; empty without.
        evaluated_epoch: the last epoch whose evaluation, if one was due, is done.
        epoch_meter: means over the epoch under way.
    """

    weights: list[ms.Parameter]
    slots: list[ms.Parameter]
    updates: ms.Parameter
    steps_per_epoch: int
    group_size: int = 1
    step: int = 0
    best_map: float = -1.0
    best_epoch: int = 0
    best_path: str = ""
    evaluated_epoch: int = 0
    epoch_meter: LossMeter = field(default_factory=LossMeter)

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self.step // self.steps_per_epoch

    @property
    def is_epoch_end(self) -> bool:
        """Whether the last step was an epoch's last."""
        return self.step % self.steps_per_epoch == 0

    def is_due(self, interval: int) -> bool:
        """Whether an interval of steps (-1: an epoch) ends at this step."""
        return self.step % (interval if interval > 0 else self.steps_per_epoch) == 0

    def save(self, path: Path, config: Config) -> None:
        """Write a checkpoint: parameters, and the rest as JSON in it (`src.weights.checkpoint` says what it accepts).

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        document = {
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "updates": int(self.updates.asnumpy()[0]),
            "seed": config.seed,
            "best_map": self.best_map,
            "best_epoch": self.best_epoch,
            "epoch_sums": self.epoch_meter.sums(),
            "evaluated_epoch": self.evaluated_epoch,
            "options": carried_options(config),
            "run_options": {key: config[key] for key in RUN_OPTIONS},
            "group_size": self.group_size,
            "best_path": self.best_path,
            "saved_at": time.time(),
        }
        save_checkpoint([*self.weights, *self.slots], path, document)

    def restore(self, start: Start, with_sums: bool) -> None:
        """Go on where an earlier run was, whose weights are loaded; nothing changes for a published checkpoint.

        Args:
            start: its checkpoint.
            with_sums: take the means of its epoch under way too (they are rank 0's).

        Raises:
            UserError: the training state is not complete, or of a run with other options.
        """
        path, document = start.path, start.state
        if document is None:
            get_logger().warning("%s carries no training state (a published checkpoint): weights only", path)
            return
        lacking = {"step", "steps_per_epoch", "best_map", "best_epoch"} - set(document)
        if lacking:
            raise UserError(
                f"{path}: its training state lacks {', '.join(sorted(lacking))}; use it as pretrained_checkpoint"
            )
        self.step = document["step"]
        if document["steps_per_epoch"] != self.steps_per_epoch:
            self.step = round(document["step"] / document["steps_per_epoch"] * self.steps_per_epoch)
            get_logger().warning(
                "%s had %d steps an epoch, this run has %d: going on from step %d",
                path, document["steps_per_epoch"], self.steps_per_epoch, self.step,
            )  # fmt: skip
        self.best_map, self.best_epoch = document["best_map"], document["best_epoch"]
        self.best_path = document.get("best_path") or _best_beside(path)
        self.evaluated_epoch = document.get("evaluated_epoch", self.epoch)
        is_same_step = self.step == document["step"]
        if with_sums and is_same_step:
            self.epoch_meter.restore(document.get("epoch_sums"))
        for slot in self.slots:
            slot.set_data(ms.Tensor(_value_of(slot, start), slot.dtype))
        updates = document.get("updates", self.step) if is_same_step else self.step
        self.updates.set_data(ms.Tensor([updates], ms.int32))


def _best_beside(checkpoint: Path) -> str:
    """The best checkpoint beside one that does not say where it is."""
    best = checkpoint.resolve().with_name(BEST)
    return str(best) if best.is_file() else ""


def _value_of(slot: ms.Parameter, start: Start) -> np.ndarray:
    """The value of a slot in a checkpoint; UserError where it has none that fits."""
    value = start.values.get(slot.name)
    if value is None:
        raise UserError(
            f"{start.path}: lacks {slot.name}; resume with the options that it was written with, or use it "
            "as pretrained_checkpoint"
        )
    if tuple(value.shape) != tuple(slot.shape):
        raise UserError(
            f"{start.path}: {slot.name} has shape {tuple(value.shape)}, this run wants "
            f"{tuple(slot.shape)}; resume with the options that it was written with"
        )
    return value
