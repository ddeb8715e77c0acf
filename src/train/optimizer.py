"""Which parameters decay; Momentum with the published meaning of `loss_scale`, and Adam."""

import mindspore as ms
import numpy as np
from mindspore import nn


def weight_decay_groups(parameters: list[ms.Parameter], weight_decay: float) -> list[dict]:
    """Parameter groups for an optimizer: convolution weights decay; BatchNorm's and biases do not."""
    decayed = [parameter for parameter in parameters if decays(parameter.name)]
    others = [parameter for parameter in parameters if not decays(parameter.name)]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def decays(name: str) -> bool:
    """Whether a parameter is a weight, by its name's last word (gamma, beta and bias are not)."""
    return name.rsplit(".", 1)[-1] == "weight"


def create_momentum(
    network: nn.Cell, rates: np.ndarray, *, momentum: float, weight_decay: float, loss_scale: float
) -> nn.Momentum:
    """The published optimizer: v <- momentum v + g / loss_scale + decay w;  w <- w - rate v.

    The loss is not multiplied by `loss_scale`, so the effective rate of the gradient is rate / loss_scale;
    the published recipes rest on that. The decay is not divided: nn.Momentum multiplies it by loss_scale
    before it divides gradient and decay by it.

    Args:
        network: its trainable parameters are updated.
        rates: one learning rate a step, float32.
        momentum: of the velocity v.
        weight_decay: of weights only.
        loss_scale: the divisor of the gradient.
    """
    groups = weight_decay_groups(network.trainable_params(), weight_decay)
    return nn.Momentum(groups, learning_rate=ms.Tensor(rates), momentum=momentum, loss_scale=loss_scale)


def create_adam(network: nn.Cell, rates: np.ndarray, *, weight_decay: float) -> nn.Adam:
    """Adam (https://arxiv.org/abs/1412.6980): for training from nothing, where it learns in fewer steps.

    The size of the gradient does not matter to it, so `loss_scale` has no part; the rate is the rate.
    """
    groups = weight_decay_groups(network.trainable_params(), weight_decay)
    return nn.Adam(groups, learning_rate=ms.Tensor(rates))


def optimizer_slots(optimizer: nn.Optimizer) -> list[ms.Parameter]:
    """What an optimizer remembers from step to step, apart from the step itself; a checkpoint carries it."""
    if isinstance(optimizer, nn.Adam):
        return [*optimizer.moment1, *optimizer.moment2, optimizer.beta1_power, optimizer.beta2_power]
    return list(optimizer.moments)
