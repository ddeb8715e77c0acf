"""Starting weights, reproducible from a seed."""

import math
import zlib

import mindspore as ms
import numpy as np
from mindspore import nn


def initialize(network: nn.Cell, seed: int) -> None:
    """Set every convolution's weight and bias as the published code does.

    Weights are uniform in +-sqrt(6 / ((1 + a^2) fan_in)) with a = sqrt(5) (Kaiming,
    https://arxiv.org/abs/1502.01852), biases uniform in +-1 / sqrt(fan_in). Each parameter draws from a
    generator of its own, so a layer's values do not depend on the other layers. BatchNorm keeps 1 and 0.
    """
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            fan_in = int(np.prod(cell.weight.shape[1:]))
            _fill(cell.weight, math.sqrt(6 / ((1 + 5) * fan_in)), seed)
            if cell.has_bias:
                _fill(cell.bias, 1 / math.sqrt(fan_in), seed)


def set_head_prior(network: nn.Cell, objectness: float, anchors: int = 3) -> None:
    """Let the heads start from a guess of how rare objects are, instead of one half everywhere.

    Objectness starts at this probability and each class at one over their number, by the biases alone
    (https://arxiv.org/abs/1708.02002, section 4.1). Training from nothing then spends no steps on it.

    Args:
        network: its heads are the convolutions with a bias, of anchors * (5 + classes) channels.
        objectness: probability in (0, 1).
        anchors: anchors a cell.
    """
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d) and cell.has_bias:
            bias = cell.bias.asnumpy().reshape(anchors, -1).copy()
            classes = bias.shape[1] - 5
            bias[:, 4] = _logit(objectness)
            bias[:, 5:] = _logit(1 / (classes + 1))
            cell.bias.set_data(ms.Tensor(bias.reshape(-1), cell.bias.dtype))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _fill(parameter: ms.Parameter, bound: float, seed: int) -> None:
    rng = np.random.default_rng((seed, zlib.crc32(parameter.name.encode())))
    values = rng.uniform(-bound, bound, parameter.shape).astype(np.float32)
    parameter.set_data(ms.Tensor(values, parameter.dtype))
