"""Means of the loss and its parts between two log lines, or over an epoch."""

import time

import numpy as np


class LossMeter:
    """Mean of the loss and its parts, and the time, since the last log line or over an epoch."""

    def __init__(self):
        self._clear()

    def _clear(self) -> None:
        self.total, self.parts, self.steps, self.before = 0.0, np.zeros(3), 0, 0.0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time since the last line (an evaluation, say) out of the next one."""
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time since the start, that of an interrupted run before it included."""
        return self.before + time.perf_counter() - self.start

    def update(self, loss: float, parts: np.ndarray) -> None:
        """Add one step: its loss and the (3,) box, objectness and class parts."""
        self.total += loss
        self.parts += parts
        self.steps += 1

    def take(self) -> tuple[float, np.ndarray, int, float]:
        """(mean loss, mean parts, steps, seconds), and start anew."""
        result = (self.total / self.steps, self.parts / self.steps, self.steps, self.seconds)
        self._clear()
        return result

    def sums(self) -> list[float]:
        """What `restore` takes, for a checkpoint."""
        return [self.total, *self.parts.tolist(), self.steps, self.seconds]

    def restore(self, sums: list[float] | None) -> None:
        """Go on from the sums of an interrupted run (None: it kept none)."""
        if sums:
            self.total, self.parts, self.steps, self.before = (
                sums[0],
                np.array(sums[1:4]),
                int(sums[4]),
                sums[5],
            )
