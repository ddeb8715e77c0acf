"""Learning rate schedules: pure functions that give one rate a step for the whole training."""

import math
from collections.abc import Sequence

import numpy as np

from .base.errors import UserError

# cosine_annealing_sample runs through a longer cosine and leaves out every second epoch of this stretch.
_SAMPLE_START, _SAMPLE_STEP, _SAMPLE_COUNT = 60, 2, 60


def learning_rates(
    scheduler: str,
    *,
    lr: float,
    steps_per_epoch: int,
    max_epoch: int,
    warmup_epochs: float = 0,
    lr_epochs: Sequence[int] = (),
    lr_gamma: float = 0.1,
    t_max: int = 320,
    eta_min: float = 0.0,
    warmup_from_zero: bool = False,
) -> np.ndarray:
    """The rate of every step, (max_epoch * steps_per_epoch,) float32.

    The first `warmup_epochs` rise linearly to `lr`, whatever the schedule (under `warmup_from_zero` from 0 to one step
    short of it); then the rate of an epoch e is

    - exponential: lr * lr_gamma ^ (number of lr_epochs reached);
    - cosine_annealing: eta_min + (lr - eta_min) * (1 + cos(pi * e / t_max)) / 2
      (https://arxiv.org/abs/1608.03983);
    - linear: lr + (eta_min - lr) * min(e, t_max) / t_max;
    - cosine_annealing_V2: the same for two thirds of the training, then a second cosine from there over
      the last third;
    - cosine_annealing_sample: a cosine over 60 epochs more, of which every second one between epochs 60 and
      180 is left out.

    Raises:
        UserError: the schedule needs more epochs than there are.
    """
    warmup_steps = int(warmup_epochs * steps_per_epoch)
    if scheduler == "exponential":
        by_epoch = [lr * lr_gamma ** sum(epoch >= mark for mark in lr_epochs) for epoch in range(max_epoch)]
        # As published, a mark within the warm-up is passed over.
        passed = sum(mark * steps_per_epoch < warmup_steps for mark in lr_epochs)
        by_epoch = [rate / lr_gamma**passed if passed else rate for rate in by_epoch]
        epochs = range(max_epoch)
    elif scheduler == "cosine_annealing":
        by_epoch = [_cosine(lr, eta_min, epoch, t_max) for epoch in range(max_epoch)]
        epochs = range(max_epoch)
    elif scheduler == "linear":
        by_epoch = [lr + (eta_min - lr) * min(epoch, t_max) / t_max for epoch in range(max_epoch)]
        epochs = range(max_epoch)
    elif scheduler == "cosine_annealing_V2":
        by_epoch = _two_cosines(lr, eta_min, max_epoch, t_max, steps_per_epoch)
        return _warm_up(np.array(by_epoch), lr, warmup_steps, warmup_from_zero).astype(np.float32)
    elif scheduler == "cosine_annealing_sample":
        longer = max_epoch + _SAMPLE_COUNT
        left_out = range(_SAMPLE_START, _SAMPLE_START + _SAMPLE_STEP * _SAMPLE_COUNT, _SAMPLE_STEP)
        if longer < left_out[-1] + 1:
            raise UserError(
                f"lr_scheduler: cosine_annealing_sample needs max_epoch of at least "
                f"{left_out[-1] + 1 - _SAMPLE_COUNT}, it is {max_epoch}; use cosine_annealing"
            )
        by_epoch = [_cosine(lr, eta_min, epoch, longer) for epoch in range(longer)]
        epochs = [epoch for epoch in range(longer) if epoch not in left_out]
    else:
        raise UserError(f"lr_scheduler: {scheduler!r} is unknown")
    rates = np.repeat(np.array(by_epoch)[list(epochs)], steps_per_epoch)
    return _warm_up(rates, lr, warmup_steps, warmup_from_zero).astype(np.float32)


def _cosine(start: float, end: float, epoch: float, period: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * epoch / period)) / 2


def _two_cosines(lr, eta_min, max_epoch, t_max, steps_per_epoch) -> list[float]:
    """Rates a step; the switch is at a step, not an epoch, and starts from the last rate before it."""
    total = max_epoch * steps_per_epoch
    second_period = max(1, int(max_epoch / 3))
    rates: list[float] = []
    start, start_epoch = lr, 0
    for step in range(total):
        epoch = step // steps_per_epoch
        if step < total * 2 / 3:
            start, start_epoch = _cosine(lr, eta_min, epoch, t_max), epoch
            rates.append(start)
        else:
            rates.append(_cosine(start, eta_min, epoch - start_epoch, second_period))
    return rates


def _warm_up(rates: np.ndarray, lr: float, warmup_steps: int, from_zero: bool) -> np.ndarray:
    """Replace the first steps by a linear rise that reaches `lr` at its end, or with the step after it."""
    if warmup_steps:
        count = min(warmup_steps, len(rates))
        rates[:count] = lr * (np.arange(count) + (0 if from_zero else 1)) / warmup_steps
    return rates
