"""What a run says of its steps: the published log line, a progress bar, the row of an epoch, exploding losses."""

import math

import numpy as np

from ..config import Config
from ..logger import get_logger, progress_bar, step_line
from ..report.history import EpochRow
from ..runtime.device import Runtime, used_memory
from .learning_checks import LossWatch
from .loss_meter import LossMeter
from .state import TrainState


class Progress:
    """Says how training goes; a context, in which the bar is shown.

    Args:
        config: `log_interval` and the size of a batch.
        runtime: this process's place; rank 0 shows the bar.
        state: of the run; its step and its epoch's means.
        rates: learning rate of each step.
        last_step: step at which the run ends.
    """

    def __init__(
        self, config: Config, runtime: Runtime, state: TrainState, rates: np.ndarray, last_step: int
    ):
        self.config, self.state, self.rates = config, state, rates
        self.images_a_step = config.per_batch_size * runtime.group_size
        self.meter, self.watch = LossMeter(), LossWatch()
        self.bar = progress_bar(last_step, "train", "step", runtime.rank, state.step)

    def __enter__(self) -> "Progress":
        self.state.epoch_meter.restart_clock()
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def add(self, loss: float, parts: np.ndarray) -> None:
        """The step that `state.step` counts now: its loss and the (3,) parts."""
        self.meter.update(loss, parts)
        self.state.epoch_meter.update(loss, parts)
        if not self.bar.disable:
            self.bar.set_postfix_str(self._bar_text(loss), refresh=False)
        if warning := self.watch.update(loss):
            get_logger().warning("step %d: %s", self.state.step, warning)
        self.bar.update()
        if self.state.is_due(self.config.log_interval):
            self._log()

    def take_epoch(self) -> EpochRow:
        """The means of the epoch that has just ended, not evaluated yet."""
        loss, (box, objectness, class_loss), steps, seconds = self.state.epoch_meter.take()
        return EpochRow(
            epoch=self.state.epoch,
            step=self.state.step,
            loss=loss,
            box=float(box),
            objectness=float(objectness),
            class_loss=float(class_loss),
            lr=self._rate(),
            ap=math.nan,
            ap50=math.nan,
            pictures_per_second=steps * self.images_a_step / seconds,
            seconds=seconds,
        )

    def _log(self) -> None:
        loss, parts, steps, seconds = self.meter.take()
        line = step_line(
            epoch=self.state.epoch,
            iteration=self.state.step - 1,
            loss=loss,
            step_ms=1000 * seconds / steps,
            fps=steps * self.images_a_step / seconds,
            lr=self._rate(),
        )
        get_logger().info(line)
        get_logger().info("loss parts: box %.4f, objectness %.4f, class %.4f", *parts)

    def _bar_text(self, loss: float) -> str:
        """Loss, speed of the epoch so far, memory."""
        epoch = self.state.epoch_meter
        speed = epoch.steps * self.images_a_step / epoch.seconds
        return f"loss {loss:.1f}, {speed:.1f} images/s, {used_memory(self.config)}"

    def _rate(self) -> float:
        return float(self.rates[self.state.step - 1])
