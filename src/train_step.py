"""One training step as one cell: normalise, forward, loss, backward, average over ranks, clip, update."""

from mindspore import nn, ops


class ForwardLoss(nn.Cell):
    """Pictures and boxes to the loss.

    Inputs:
        images: (N, 3, H, W) uint8 RGB.
        boxes: (N, max_box, 5) float32, x1 y1 x2 y2 class in input pixels, padded with zero rows.

    Outputs:
        the total loss, and its (3 strides, 3: box, objectness, class) parts.
    """

    def __init__(self, normalize: nn.Cell, network: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)  # parameter names stay the published ones
        self.normalize = normalize
        self.network = network
        self.loss = loss

    def construct(self, images, boxes):
        large, medium, small = self.network(self.normalize(images))
        return self.loss(large, medium, small, boxes)


class TrainStep(nn.Cell):
    """`ForwardLoss`, its gradients, and one update of the optimizer.

    Args:
        forward: the loss.
        optimizer: holds the trained parameters.
        clip_norm: largest global norm of the gradients; 0 leaves them alone.
        group_size: number of data-parallel processes whose gradients are averaged.
    """

    def __init__(
        self, forward: ForwardLoss, optimizer: nn.Optimizer, clip_norm: float = 0.0, group_size: int = 1
    ):
        super().__init__(auto_prefix=False)
        self.forward_loss = forward
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.value_and_grad = ops.value_and_grad(forward, None, optimizer.parameters, has_aux=True)
        self.is_parallel = group_size > 1
        if self.is_parallel:
            self.average = nn.DistributedGradReducer(optimizer.parameters, mean=True, degree=group_size)

    def construct(self, images, boxes):
        (total, parts), gradients = self.value_and_grad(images, boxes)
        if self.is_parallel:
            gradients = self.average(gradients)
        if self.clip_norm > 0:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        total = ops.depend(total, self.optimizer(gradients))
        return total, parts
