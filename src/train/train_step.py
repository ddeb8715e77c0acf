"""One training step: normalise, forward, loss, backward, average over ranks, clip, update, moving average."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .optimizer import optimizer_slots

_SCALE_FACTOR, _SCALE_WINDOW = 2.0, 1000  # dynamic loss scale: down at once, up after so many good steps
_EMA_WARM_UP = 2000  # updates over which the decay grows, so that the first weights do not linger

_add = ops.MultitypeFuncGraph("add")


@_add.register("Tensor", "Tensor")
def _add_tensors(total, value):
    return ops.assign_add(total, value)


_clear = ops.MultitypeFuncGraph("clear")


@_clear.register("Tensor")
def _clear_tensor(total):
    return ops.assign(total, ops.zeros_like(total))


_times = ops.MultitypeFuncGraph("times")


@_times.register("Tensor", "Tensor")
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


class ForwardLoss(nn.Cell):
    """Images and boxes to the loss.

    Inputs:
        images: (N, 3, H, W) uint8 RGB.
        boxes: (N, max_box, 5) float32, x1 y1 x2 y2 class in input pixels, padded with zero rows.

    Outputs:
        the total loss, and its (heads, 3: box, objectness, class) parts.
    """

    def __init__(self, normalize: nn.Cell, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)  # parameter names stay the published ones
        self.normalize = normalize
        self.network = network
        self.loss = loss

    def construct(self, images, boxes):
        return self.loss(*self.network(self.normalize(images)), boxes)


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
        return self.map(ops.partial(_times, 1 / self.scale), gradients)

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
        self.is_dynamic = self.is_scaled and scaler.dynamic
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


class TrainStep(nn.Cell):
    """`ForwardLoss`, its gradients, and one `Update`.

    Args:
        forward: the loss.
        update: what is done with the gradients.
    """

    def __init__(self, forward: ForwardLoss, update: Update):
        super().__init__(auto_prefix=False)
        self.gradients = Gradients(forward, update)
        self.update = update

    def construct(self, images, boxes):
        total, parts, gradients = self.gradients(images, boxes)
        total = ops.depend(total, self.update(gradients))
        return total, parts


class ScaledLoss(nn.Cell):
    """The loss times the scaler's factor, which is differentiated; the loss and its parts come along."""

    def __init__(self, forward: ForwardLoss, scaler: LossScaler | None):
        super().__init__(auto_prefix=False)
        self.forward_loss = forward
        self.scaler, self.is_scaled = scaler, scaler is not None

    def construct(self, images, boxes):
        total, parts = self.forward_loss(images, boxes)
        scaled = total * self.scaler.scale if self.is_scaled else total
        return scaled, total, parts


class Gradients(nn.Cell):
    """Loss, its parts and the gradients of the trained parameters, the last times the scaler's factor."""

    def __init__(self, forward: ForwardLoss, update: Update):
        super().__init__(auto_prefix=False)
        loss = ScaledLoss(forward, update.scaler)
        self.loss = loss
        self.value_and_grad = ops.value_and_grad(loss, None, update.optimizer.parameters, has_aux=True)

    def construct(self, images, boxes):
        (_, total, parts), gradients = self.value_and_grad(images, boxes)
        return total, parts, gradients


class AccumulatedStep:
    """`TrainStep` in several parts of the batch, for the memory of one: gradients are added, then applied.

    The loss and the update are those of the whole batch; BatchNorm statistics are each part's own, or of the
    parts so far.

    Args:
        forward: the loss.
        update: what is done with the mean of the parts' gradients.
        parts: number of parts; the batch is a multiple of it.
        statistics: sums of BatchNorm over the parts (`collect_batch_norm`), cleared before the next batch.
    """

    def __init__(self, forward: ForwardLoss, update: Update, parts: int, statistics: list[Parameter] = ()):
        self.parts = parts
        self.add = _AddGradients(forward, update, parts)
        self.apply = _ApplyGradients(self.add.sums, update, statistics)

    def set_train(self) -> "AccumulatedStep":
        """Training mode; returns itself, as cells do."""
        self.add.set_train()
        self.apply.set_train()
        return self

    def __call__(self, images: Tensor, boxes: Tensor):
        size = images.shape[0] // self.parts
        images, boxes = images.asnumpy(), boxes.asnumpy()
        totals, terms = [], []
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            total, parts = self.add(Tensor(images[part]), Tensor(boxes[part]))
            totals.append(total.asnumpy())
            terms.append(parts.asnumpy())
        self.apply()
        return Tensor(np.mean(totals, axis=0)), Tensor(np.mean(terms, axis=0))


class _AddGradients(nn.Cell):
    def __init__(self, forward: ForwardLoss, update: Update, parts: int):
        super().__init__(auto_prefix=False)
        self.gradients = Gradients(forward, update)
        self.sums = ParameterTuple(
            [
                Parameter(np.zeros(p.shape, np.float32), name=f"sum.{p.name}", requires_grad=False)
                for p in update.optimizer.parameters
            ]
        )
        self.share = Tensor(1 / parts, ms.float32)
        self.map = ops.HyperMap()

    def construct(self, images, boxes):
        total, parts, gradients = self.gradients(images, boxes)
        gradients = self.map(ops.partial(_times, self.share), gradients)
        total = ops.depend(total, self.map(_add, self.sums, gradients))
        return total, parts


class _ApplyGradients(nn.Cell):
    def __init__(self, sums: ParameterTuple, update: Update, statistics):
        super().__init__(auto_prefix=False)
        self.sums = sums
        self.cleared = ParameterTuple([*sums, *statistics])
        self.update = update
        self.map = ops.HyperMap()

    def construct(self):
        done = self.update(self.sums)
        return ops.depend(self.map(_clear, self.cleared), done)
