"""One training step: normalise, forward, loss, backward, and the update (`src/train/update.py`); whole or in parts."""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from .update import LossScaler, Update, times

_add = ops.MultitypeFuncGraph("add")


@_add.register("Tensor", "Tensor")
def _add_tensors(total, value):
    return ops.assign_add(total, value)


_clear = ops.MultitypeFuncGraph("clear")


@_clear.register("Tensor")
def _clear_tensor(total):
    return ops.assign(total, ops.zeros_like(total))


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

    def __init__(
        self, forward: ForwardLoss, update: Update, parts: int, statistics: Sequence[Parameter] = ()
    ):
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
        gradients = self.map(ops.partial(times, self.share), gradients)
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
