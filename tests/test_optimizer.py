"""Momentum with the published meaning of loss_scale, and which parameters decay."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.train.optimizer import create_adam, create_momentum, optimizer_slots, weight_decay_groups
from src.yolo import YoloV4


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def small_cell():
    return nn.SequentialCell(nn.Conv2d(2, 3, 3, has_bias=True), nn.BatchNorm2d(3))


class NamedCell(nn.Cell):
    """One convolution and one BatchNorm, with the names of the golden file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, has_bias=True)
        self.bn = nn.BatchNorm2d(4)


@pytest.mark.parametrize("case", "abc")
def test_five_steps_equal_the_published_optimizer(fixtures, case):
    """Decay 0.0005 and 0.05 at loss_scale 64, 0.05 at 1; on the way v <- m v + g / loss_scale + decay w."""
    golden = np.load(fixtures / "optimizer.npz")
    weight_decay, loss_scale, momentum = (float(value) for value in golden[f"{case}:settings"])
    rates = golden[f"{case}:rates"]
    cell = NamedCell()
    for parameter in cell.trainable_params():
        parameter.set_data(Tensor(golden[f"{case}:start:{parameter.name}"]))
    optimizer = create_momentum(
        cell, rates, momentum=momentum, weight_decay=weight_decay, loss_scale=loss_scale
    )
    names = [parameter.name for parameter in optimizer.parameters]
    assert sorted(names) == ["bn.beta", "bn.gamma", "conv.bias", "conv.weight"]
    weights = {name: golden[f"{case}:start:{name}"].astype(np.float64) for name in names}
    velocity = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, rate in enumerate(rates):
        optimizer(tuple(Tensor(golden[f"{case}:grad{step}:{name}"]) for name in names))
        for parameter in optimizer.parameters:
            name = parameter.name
            decay = weight_decay * weights[name] if name == "conv.weight" else 0
            velocity[name] = (
                momentum * velocity[name] + golden[f"{case}:grad{step}:{name}"] / loss_scale + decay
            )
            weights[name] = weights[name] - float(rate) * velocity[name]
            np.testing.assert_allclose(parameter.asnumpy(), weights[name], rtol=0, atol=1e-6, err_msg=name)
    for parameter in optimizer.parameters:
        published = golden[f"{case}:after4:{parameter.name}"]
        np.testing.assert_allclose(parameter.asnumpy(), published, rtol=0, atol=1e-6, err_msg=parameter.name)


def test_three_steps_of_adam_equal_the_closed_form():
    """m <- 0.9 m + 0.1 g, v <- 0.999 v + 0.001 g^2, w <- w - lr (m / (1 - 0.9^t)) / (sqrt(v / (1 - 0.999^t)) + eps)."""
    rng = np.random.default_rng(1)
    cell = small_cell()
    optimizer = create_adam(cell, np.float32([0.01, 0.03, 0.02]), weight_decay=0.0)
    weights = {p.name: p.asnumpy().astype(np.float64) for p in cell.trainable_params()}
    first = {name: np.zeros_like(value) for name, value in weights.items()}
    second = {name: np.zeros_like(value) for name, value in weights.items()}
    for step, rate in enumerate((0.01, 0.03, 0.02), start=1):
        gradients = {p.name: rng.normal(0, 20, p.shape).astype(np.float32) for p in optimizer.parameters}
        optimizer(tuple(Tensor(gradients[p.name]) for p in optimizer.parameters))
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * np.square(gradient, dtype=np.float64)
            corrected = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
            weights[name] -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    for parameter in cell.trainable_params():
        np.testing.assert_allclose(parameter.asnumpy(), weights[parameter.name], rtol=0, atol=1e-5)
    names = [slot.name for slot in optimizer_slots(optimizer)]
    assert len(names) == len(set(names)) == 2 * len(weights) + 2


def test_weights_decay_and_nothing_else_in_the_network():
    network = YoloV4(3, backbone_shape=(16, 32, 64, 128, 256), backbone_layers=(1, 1, 1, 1, 1))
    parameters = network.trainable_params()
    decayed, others = weight_decay_groups(parameters, 0.0005)
    assert decayed["weight_decay"] == 0.0005
    assert others["weight_decay"] == 0
    assert len(decayed["params"]) + len(others["params"]) == len(parameters)
    assert all(len(parameter.shape) == 4 for parameter in decayed["params"])
    assert all(len(parameter.shape) == 1 for parameter in others["params"])
