"""Self-adversarial training (YOLOv4, https://arxiv.org/abs/2004.10934, section 3.3): the network first changes
the images so that it overlooks their objects, and is then trained on them as usual."""

import mindspore as ms
from mindspore import nn, ops

from .train_step import ForwardLoss


class SelfAdversary(nn.Cell):
    """Images in which the network sees fewer objects.

    One step against the sign of the gradient of the loss that calls every cell empty
    (https://arxiv.org/abs/1412.6572), in grey levels. Runs with the network's statistics of inference and
    changes nothing of the network.

    Args:
        forward: the loss.
        strength: change of a pixel in grey levels.

    Inputs:
        images: (N, 3, H, W) uint8 RGB; boxes: (N, max_box, 5) float32, of which only the shape counts.

    Outputs:
        (N, 3, H, W) uint8.
    """

    def __init__(self, forward: ForwardLoss, strength: float):
        super().__init__(auto_prefix=False)
        self.normalize = forward.normalize
        self.strength = strength
        self.gradient = ops.grad(_EmptyLoss(forward.network, forward.loss), 0)

    def construct(self, images, boxes):
        gradient = self.gradient(self.normalize(images), ops.zeros_like(boxes))
        gradient = ops.where(gradient == gradient, gradient, ops.zeros_like(gradient))  # NaN: no direction
        # Normalisation keeps the sign: each channel is only shifted and scaled.
        changed = ops.cast(images, ms.float32) - self.strength * ops.sign(gradient)
        return ops.cast(ops.clamp(ops.round(changed), 0, 255), ms.uint8)


class _EmptyLoss(nn.Cell):
    def __init__(self, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)
        self.network, self.loss = network, loss

    def construct(self, x, no_boxes):
        large, medium, small = self.network(x)
        total, _ = self.loss(large, medium, small, no_boxes)
        return total
