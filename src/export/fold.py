"""BatchNorm folded into the convolution in front of it: fewer kernels, the same numbers.

In inference y = gamma (conv(x) - mean) / sqrt(variance + eps) + beta is a convolution with weights
w gamma / sqrt(variance + eps) and bias beta - mean gamma / sqrt(variance + eps).
"""

import numpy as np
from mindspore import Parameter, nn

from ..layers.batch_norm import BatchNorm


def fold_batch_norm(network: nn.Cell) -> int:
    """Fold every (convolution, BatchNorm, ...) sequence of the network, in place; returns how many.

    The network serves inference only from then on: its BatchNorm parameters are gone.
    """
    sequences = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.SequentialCell)]
    folded = 0
    for sequence in sequences:
        cells = list(sequence)
        if len(cells) >= 2 and isinstance(cells[0], nn.Conv2d) and isinstance(cells[1], BatchNorm):
            sequence[0] = _fold(cells[0], cells[1])
            del sequence[1]
            folded += 1
    return folded


def _fold(conv: nn.Conv2d, norm: BatchNorm) -> nn.Conv2d:
    gamma, beta, mean, variance = (
        parameter.asnumpy().astype(np.float64)
        for parameter in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    factor = gamma / np.sqrt(variance + norm.eps)
    weight = conv.weight.asnumpy().astype(np.float64) * factor[:, None, None, None]
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        pad_mode=conv.pad_mode,
        padding=conv.padding,
        has_bias=True,
    )
    folded.weight = Parameter(weight.astype(np.float32), name=conv.weight.name)
    folded.bias = Parameter((beta - mean * factor).astype(np.float32), name=f"{conv.weight.name}.bias")
    return folded
