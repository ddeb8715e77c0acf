"""Share the images out among the ranks and draw the input size: pure functions of seed, epoch, step and rank."""

import numpy as np

_SHAPE_DRAW = 0x5CA1E  # keeps the draws of input shapes apart from those of the samples


class DistributedSampler:
    """This rank's share of the samples in each epoch.

    All shares have the same length (the order is wrapped around to fill the last one) and together they
    cover the set.
    """

    def __init__(
        self, num_samples: int, rank: int = 0, group_size: int = 1, *, shuffle: bool = True, seed: int = 0
    ):
        self.num_samples, self.rank, self.group_size = num_samples, rank, group_size
        self.shuffle, self.seed = shuffle, seed

    def __len__(self) -> int:
        return -(-self.num_samples // self.group_size)

    def indices(self, epoch: int) -> np.ndarray:
        """Sample numbers (len(self),) int64 of this rank, shuffled anew in each epoch."""
        order = np.arange(self.num_samples)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        return np.resize(order, len(self) * self.group_size)[self.rank :: self.group_size]


def shard_indices(num_samples: int, rank: int, group_size: int) -> np.ndarray:
    """This rank's samples in evaluation: each sample on exactly one rank, no filling."""
    return np.arange(rank, num_samples, group_size)


def shape_for_step(
    shapes: list[tuple[int, int]], resize_rate: int, seed: int, epoch: int, step: int
) -> tuple[int, int]:
    """Input (height, width) of a step, the same on every rank.

    One of `shapes` is drawn every `resize_rate` steps, counted from the epoch's start.
    """
    draw = np.random.default_rng((seed, epoch, _SHAPE_DRAW, step // resize_rate))
    height, width = shapes[int(draw.integers(len(shapes)))]
    return height, width
