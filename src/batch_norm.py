"""BatchNorm with the statistics of the rank's own batch (as published) or, by option, of all ranks'."""

from mindspore import nn, ops

EPSILON = 1e-5


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, with the same parameters, whose statistics in training can be those of all ranks.

    Inputs:
        x (N, C, H, W).

    Outputs:
        The normalised map, of the same shape.
    """

    def __init__(self, channels: int):
        # MindSpore's momentum is the share of the old statistics: 0.9 here is 0.1 elsewhere.
        super().__init__(channels, momentum=0.9, eps=EPSILON)
        self.ranks = 1

    def synchronise(self, ranks: int) -> None:
        """Take the statistics of training over this many ranks from now on."""
        self.ranks = ranks
        self.all_reduce = ops.AllReduce()

    def construct(self, x):
        if self.ranks > 1 and self.training:
            return self.normalise_over_ranks(x)
        return super().construct(x)

    def normalise_over_ranks(self, x):
        """One reduction carries both moments; it has a gradient, so the ranks' gradients meet here too."""
        moments = ops.stack((x.mean((0, 2, 3)), (x * x).mean((0, 2, 3))))
        mean, square = ops.unstack(self.all_reduce(moments) / self.ranks)
        variance = ops.relu(square - mean * mean)
        count = x.shape[0] * x.shape[2] * x.shape[3] * self.ranks
        unbiased = variance * (count / max(count - 1, 1))
        kept = self.momentum  # MindSpore stores 1 - momentum here: the share of the new statistics
        moving_mean = self.moving_mean + kept * (ops.stop_gradient(mean) - self.moving_mean)
        moving_variance = self.moving_variance + kept * (ops.stop_gradient(unbiased) - self.moving_variance)
        x = ops.depend(x, ops.assign(self.moving_mean, moving_mean))
        x = ops.depend(x, ops.assign(self.moving_variance, moving_variance))
        scale = self.gamma * ops.rsqrt(variance + self.eps)
        shift = self.beta - mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def synchronise_batch_norm(network: nn.Cell, ranks: int) -> None:
    """Let every BatchNorm of a network take its statistics over all ranks."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, BatchNorm):
            cell.synchronise(ranks)
