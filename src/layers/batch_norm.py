"""BatchNorm with the statistics of the rank's own batch (as published) or, by option, of all ranks', or of the
parts of a batch that have gone through the network so far."""

import numpy as np
from mindspore import Parameter, nn, ops

EPSILON = 1e-5
MOMENTUM = 0.9  # MindSpore's: the share of the old statistics, so 0.9 here is 0.1 elsewhere


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, with the same parameters, whose statistics in training can be those of all ranks.

    Inputs:
        x (N, C, H, W).

    Outputs:
        The normalised map, of the same shape.
    """

    def __init__(self, channels: int):
        super().__init__(channels, momentum=MOMENTUM, eps=EPSILON)
        self.ranks = 1
        self.collects = False

    def configure(self, momentum: float, epsilon: float) -> None:
        """Take another momentum (share of the old statistics) and another addend to the variance."""
        self.momentum, self.eps = 1 - momentum, epsilon
        self.bn_train = ops.BatchNorm(is_training=True, epsilon=epsilon, momentum=self.momentum)
        self.bn_infer = ops.BatchNorm(is_training=False, epsilon=epsilon)

    def synchronise(self, ranks: int) -> None:
        """Take the statistics of training over this many ranks from now on."""
        self.ranks = ranks
        self.all_reduce = ops.AllReduce()

    def collect(self) -> list[Parameter]:
        """Take the statistics of training over the parts of a batch; returns the sums, zero before each batch.

        Cross mini-batch normalisation (YOLOv4, https://arxiv.org/abs/2004.10934, section 3.3): part i is
        normalised by the moments of parts 1 to i, where the gradient goes through its own alone.
        """
        sums = np.zeros((2, self.gamma.shape[0]), np.float32)
        self.collects = True
        self.sums = Parameter(sums, name=f"{self.gamma.name}.part_sums", requires_grad=False)
        self.count = Parameter(sums[0, :1], name=f"{self.gamma.name}.part_count", requires_grad=False)
        return [self.sums, self.count]

    def construct(self, x):
        learns = self.training and self.use_batch_statistics is None  # False: frozen
        if learns and self.ranks > 1:
            return self.normalise_over_ranks(x)
        if learns and self.collects:
            return self.normalise_over_parts(x)
        return super().construct(x)

    def normalise_over_parts(self, x):
        """By the moments of the batch's parts so far, which are added up."""
        sums = ops.stack((x.sum((0, 2, 3)), (x * x).sum((0, 2, 3)))) + ops.stop_gradient(self.sums)
        count = self.count + float(x.shape[0] * x.shape[2] * x.shape[3])
        x = ops.depend(x, ops.assign(self.sums, ops.stop_gradient(sums)))
        x = ops.depend(x, ops.assign(self.count, count))
        mean, square = ops.unstack(sums / count)
        return self.normalise(x, mean, square, count / ops.maximum(count - 1, 1.0))

    def normalise_over_ranks(self, x):
        """One reduction carries both moments; it has a gradient, so the ranks' gradients meet here too."""
        moments = ops.stack((x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))))
        mean, square = ops.unstack(self.all_reduce(moments) / self.ranks)
        count = x.shape[0] * x.shape[2] * x.shape[3] * self.ranks
        return self.normalise(x, mean, square, count / max(count - 1, 1))

    def normalise(self, x, mean, square, correction):
        """By first and second moments; the moving statistics take the variance times `correction`."""
        variance = ops.relu(square - mean * mean)
        kept = self.momentum  # MindSpore stores 1 - momentum here: the share of the new statistics
        unbiased = ops.stop_gradient(variance * correction)
        moving_mean = self.moving_mean + kept * (ops.stop_gradient(mean) - self.moving_mean)
        moving_variance = self.moving_variance + kept * (unbiased - self.moving_variance)
        x = ops.depend(x, ops.assign(self.moving_mean, moving_mean))
        x = ops.depend(x, ops.assign(self.moving_variance, moving_variance))
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        shift = self.beta - mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def configure_batch_norm(network: nn.Cell, momentum: float, epsilon: float) -> None:
    """`BatchNorm.configure` of every BatchNorm of a network."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, BatchNorm):
            cell.configure(momentum, epsilon)


def epsilon_of(network: nn.Cell) -> float:
    """What the network's BatchNorm adds to the variance; `EPSILON` where it has none."""
    cells = (cell for _, cell in network.cells_and_names() if isinstance(cell, BatchNorm))
    return next((cell.eps for cell in cells), EPSILON)


def synchronise_batch_norm(network: nn.Cell, ranks: int) -> None:
    """Let every BatchNorm of a network take its statistics over all ranks."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, BatchNorm):
            cell.synchronise(ranks)


def collect_batch_norm(network: nn.Cell) -> list[Parameter]:
    """Let every BatchNorm that is not frozen collect its statistics over the parts of a batch; returns their sums."""
    cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, BatchNorm)]
    cells = [cell for cell in cells if cell.use_batch_statistics is None]
    return [parameter for cell in cells for parameter in cell.collect()]
