"""From gradients to one update: average over ranks, undo the loss scale, clip, optimizer, moving average."""

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .optimizer import optimizer_slots

_SCALE_FACTOR, _SCALE_WINDOW = 2.0, 1000  # dynamic loss scale: down at once, up after so many good steps
_EMA_WARM_UP = 2000  # updates over which the decay grows, so that the first weights do not linger

times = ops.MultitypeFuncGraph("times")


@times.register("Tensor", "Tensor")
def _times_tensor(factor, value):
    return value * ops.cast(factor, value.dtype)


_keep = ops.MultitypeFuncGraph("keep")


@_keep.register("Tensor", "Tensor")
def _keep_tensor(kept, value):
    return ops.assign(kept, value)


_restore = ops.MultitypeFuncGraph("restore")


@_restore.register("Tensor", "Tensor", "Tensor")
def _restore_tensor(stands, value, kept):
    return ops.assign(value, ops.where(stands, value, kept))


_blend = ops.MultitypeFuncGraph("blend")


@_blend.register("Tensor", "Tensor", "Tensor")
def _blend_tensor(share, average, value):
    return ops.assign_add(average, (value - average) * share)


class MovingAverage(nn.Cell):
    """Exponential moving average of a network's parameters, BatchNorm statistics among them.

    average <- average + (1 - d) (value - average), d = decay (1 - exp(-updates / 2000)).

    Inputs:
        stands: float32 scalar, 0 where the update is left out, and so the average stays; else 1.
    """

    def __init__(self, network: nn.Cell, decay: float):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.values = ParameterTuple(network.get_parameters())
        self.averages = ParameterTuple(
            [
                Parameter(value.asnumpy(), name=f"ema.{value.name}", requires_grad=False)
                for value in self.values
            ]
        )
        self.updates = Parameter(Tensor(0.0, ms.float32), name="ema_updates", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, stands):
        updates = ops.assign_add(self.updates, stands)
        share = stands * (1 - self.decay * (1 - ops.exp(-updates / _EMA_WARM_UP)))
        return self.map(ops.partial(_blend, share), self.averages, self.values)

    def reset(self) -> None:
        """Start from the parameters as they are now."""
        for value, average in zip(self.values, self.averages):
            average.set_data(Tensor(value.asnumpy()))

    def swap(self) -> None:
        """Exchange the network's parameters and their averages (before and after an evaluation)."""
        for value, average in zip(self.values, self.averages):
            mine = value.asnumpy().copy()
            value.set_data(Tensor(average.asnumpy()))
            average.set_data(Tensor(mine))


class LossScaler(nn.Cell):
    """The factor that keeps small gradients of half precision from vanishing; the gradients are divided by it.

    Args:
        scale: the factor at the start.
        dynamic: halve it where a gradient is not finite, and leave that step out; double it after 1000 good
            steps.
    """

    def __init__(self, scale: float, dynamic: bool):
        super().__init__(auto_prefix=False)
        self.dynamic = dynamic
        self.scale = Parameter(Tensor(scale, ms.float32), name="amp_scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name="amp_good_steps", requires_grad=False)
        self.map = ops.HyperMap()

    def construct(self, gradients):
        return self.map(ops.partial(times, 1 / self.scale), gradients)

    def adjust(self, finite):
        """Change the factor after a step whose gradients were finite or not."""
        good = ops.where(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grows = good >= _SCALE_WINDOW
        factor = ops.where(grows, _SCALE_FACTOR, ops.where(finite, 1.0, 1 / _SCALE_FACTOR))
        scale = ops.maximum(self.scale * factor, Tensor(1.0, ms.float32))
        ops.assign(self.good_steps, ops.where(grows, ops.zeros_like(good), good))
        return ops.assign(self.scale, scale)


class Undo(nn.Cell):
    """What an optimizer changes, kept so that an update can be taken back where its gradients were not finite.

    A branch around the update would be shorter; Ascend's graph engine refuses graphs with branches.

    Args:
        optimizer: its parameters, its slots and its step are kept.
    """

    def __init__(self, optimizer: nn.Optimizer):
        super().__init__(auto_prefix=False)
        self.values = ParameterTuple(
            [*optimizer.parameters, *optimizer_slots(optimizer), optimizer.global_step]
        )
        self.kept = ParameterTuple(
            [
                Parameter(value.asnumpy(), name=f"kept.{value.name}", requires_grad=False)
                for value in self.values
            ]
        )
        self.map = ops.HyperMap()

    def keep(self):
        """Note the values before the update."""
        return self.map(_keep, self.kept, self.values)

    def construct(self, stands):
        """Take the values back unless the update stands."""
        return self.map(ops.partial(_restore, stands), self.values, self.kept)


class Update(nn.Cell):
    """Gradients to one update: average over ranks, clip, optimizer, moving average.

    Args:
        optimizer: holds the trained parameters.
        clip_norm: largest global norm of the gradients; 0 leaves them alone.
        group_size: number of data-parallel processes whose gradients are averaged.
        scaler: of mixed precision; None without.
        average: moving average of the parameters; None without.
    """

    def __init__(
        self,
        optimizer: nn.Optimizer,
        *,
        clip_norm: float = 0.0,
        group_size: int = 1,
        scaler: LossScaler | None = None,
        average: MovingAverage | None = None,
    ):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.is_parallel = group_size > 1
        if self.is_parallel:
            self.reduce = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=group_size)
            self.all_reduce = ops.AllReduce()
        self.scaler, self.is_scaled = scaler, scaler is not None
        self.is_dynamic = scaler is not None and scaler.dynamic
        if self.is_dynamic:
            self.undo = Undo(optimizer)
        self.average, self.is_averaged = average, average is not None

    def construct(self, gradients):
        if self.is_parallel:
            gradients = self.reduce(gradients)
        if self.is_scaled:
            gradients = self.scaler(gradients)
        if not self.is_dynamic:
            return self.apply(gradients, Tensor(1.0, ms.float32))
        finite = self.finite_everywhere(gradients)
        done = (self.scaler.adjust(finite), self.undo.keep())
        return self.apply(ops.depend(gradients, done), finite)

    def finite_everywhere(self, gradients):
        """Whether the gradients are finite on all ranks: where a device tells by a register of its own, they may
        be on some, and ranks that do not leave out the same steps part for good."""
        finite = ms.amp.all_finite(gradients)
        if not self.is_parallel:
            return finite
        overflows = self.all_reduce(1.0 - ops.cast(finite, ms.float32).reshape(1))
        return overflows.reshape(()) < 0.5

    def apply(self, gradients, stands):
        """Update the parameters, then their averages; where the update does not stand, both stay as they were."""
        if self.clip_norm > 0:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        done = self.optimizer(gradients)
        if self.is_dynamic:
            done = ops.depend(self.undo(stands), done)
        if self.is_averaged:
            done = ops.depend(self.average(ops.cast(stands, ms.float32)), done)
        return done
