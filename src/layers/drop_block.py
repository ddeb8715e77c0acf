"""DropBlock: square blocks of a map set to zero in training (https://arxiv.org/abs/1810.12890)."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr


@constexpr
def _phases(n, height, width):
    """A fixed large angle for each place of a map, (n, 1, height, width)."""
    place = np.arange(n * height * width, dtype=np.float64).reshape(n, 1, height, width)
    return Tensor(np.mod(place * 12.9898, 2 * np.pi).astype(np.float32))


class DropBlock(nn.Cell):
    """Zero square blocks of a map, the same in all channels, and scale the rest up to keep the mean.

    Seeds of blocks are drawn with gamma = rate / size^2 * (h w) / ((h - size + 1) (w - size + 1)), so that
    about `rate` of the map is zero. Which ones is a function of the map itself: every step drops others, and a
    resumed run drops what the uninterrupted one does.

    Args:
        rate: share of the map that is dropped.
        block_size: side of a block in cells; at most the map's.

    Inputs:
        x (N, C, H, W).

    Outputs:
        The map, of the same shape; unchanged outside of training.
    """

    def __init__(self, rate: float, block_size: int = 7):
        super().__init__()
        self.rate, self.block_size = rate, block_size

    def construct(self, x):
        if not self.training:
            return x
        keep = self.keep_mask(ops.stop_gradient(x))
        return x * keep * (keep.size / ops.maximum(keep.sum(), Tensor(1.0, ms.float32)))

    def keep_mask(self, x):
        """1 where the map is kept, 0 in the blocks, (N, 1, H, W)."""
        n, _, height, width = x.shape
        size = min(self.block_size, height, width)
        rows, columns = height - size + 1, width - size + 1
        gamma = self.rate / size**2 * (height * width) / (rows * columns)
        # A hash of place and content in 0..1, as shaders draw noise.
        key = ops.cast(x, ms.float32).mean((1, 2, 3), keep_dims=True) * 9973.0
        noise = ops.sin(_phases(n, rows, columns) + key) * 43758.5453
        seeds = ops.cast(noise - ops.floor(noise) < gamma, ms.float32)
        border = size - 1
        seeds = ops.pad(seeds, (border, border, border, border))
        # Not ops.max_pool2d: it finds the places of the maxima too, which Ascend does in float16 alone.
        return 1 - ops.MaxPool(size, 1, "valid")(seeds)
