"""One training step on a cell small enough to be followed by hand: accumulation, average, scaling, freezing."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from src.base.errors import UserError
from src.config import load_config
from src.layers.batch_norm import BatchNorm
from src.train.network_setup import freeze, recompute_backbone, set_precision
from src.train.optimizer import create_adam, create_momentum, optimizer_slots
from src.train.train_step import AccumulatedStep, ForwardLoss, TrainStep
from src.train.update import LossScaler, MovingAverage, Update
from src.yolo import build_network
from tests.tiny import OPTIONS


class Cast(nn.Cell):
    def construct(self, x):
        return ops.cast(x, ms.float32)


class Product(nn.Cell):
    """Three outputs, all w . x."""

    def __init__(self, start):
        super().__init__()
        self.weight = Parameter(np.array(start, np.float32), name="w.weight")

    def construct(self, x):
        y = (x * self.weight).sum(1)
        return y, y, y


class Squares(nn.Cell):
    """Mean of (w . x - target)^2 / 2; one part."""

    def construct(self, large, medium, small, boxes):
        total = ops.square(large - boxes).mean() / 2
        return total, total.reshape(1, 1)


RATE, DECAY, MOMENTUM = 0.01, 0.1, 0.9
IMAGES = np.random.default_rng(0).integers(0, 5, (3, 4, 2), np.uint8)  # 3 steps of 4 images
TARGETS = np.random.default_rng(1).normal(0, 1, (3, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def momentum(network, rates):
    return create_momentum(network, rates, momentum=MOMENTUM, weight_decay=DECAY, loss_scale=1.0)


def adam(network, rates):
    return create_adam(network, rates, weight_decay=DECAY)


def build(start=(1.0, -1.0), scaler=None, decay=0.0, parts=1, rate=RATE, create=momentum, **options):
    network = Product(start)
    optimizer = create(network, np.full(50, rate, np.float32))
    average = MovingAverage(network, decay) if decay else None
    update = Update(optimizer, scaler=scaler, average=average, **options)
    forward = ForwardLoss(Cast(), network, Squares())
    step = AccumulatedStep(forward, update, parts) if parts > 1 else TrainStep(forward, update)
    return network, step.set_train(), average


def run(step, count=3):
    return [float(step(Tensor(IMAGES[i]), Tensor(TARGETS[i]))[0].asnumpy()) for i in range(count)]


def by_hand(start=(1.0, -1.0), count=3, clip=None):
    """Weights after each step, and losses, in float64: v <- 0.9 v + g + decay w, w <- w - rate v."""
    w, v = np.array(start, float), np.zeros(2)
    weights, losses = [], []
    for i in range(count):
        x, t = IMAGES[i].astype(float), TARGETS[i].astype(float)
        error = x @ w - t
        losses.append((error**2).mean() / 2)
        gradient = (error[:, None] * x).mean(0)
        if clip and np.linalg.norm(gradient) > clip:
            gradient *= clip / np.linalg.norm(gradient)
        v = MOMENTUM * v + gradient + DECAY * w
        w = w - RATE * v
        weights.append(w.copy())
    return weights, losses


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_accumulated_parts_are_one_step_of_the_whole_batch(parts):
    """Loss and weights of each step equal the closed form of the whole batch, in any number of parts."""
    network, step, _ = build(parts=parts)
    weights, losses = by_hand()
    np.testing.assert_allclose(run(step), losses, rtol=1e-5)
    np.testing.assert_allclose(network.weight.asnumpy(), weights[-1], rtol=1e-5)


def test_clipping_in_parts_is_of_the_whole_gradient():
    network, step, _ = build(parts=2, clip_norm=0.5)
    run(step)
    np.testing.assert_allclose(network.weight.asnumpy(), by_hand(clip=0.5)[0][-1], rtol=1e-5)


def test_moving_average_is_the_formula():
    network, step, average = build(decay=0.7)
    run(step)
    expected = np.array([1.0, -1.0])
    for updates, weights in enumerate(by_hand()[0], start=1):
        expected += (1 - 0.7 * (1 - np.exp(-updates / 2000))) * (weights - expected)
    (parameter,) = average.averages
    assert parameter.name == "ema.w.weight"
    np.testing.assert_allclose(parameter.asnumpy(), expected, rtol=1e-5)
    trained = network.weight.asnumpy().copy()
    average.swap()
    np.testing.assert_allclose(network.weight.asnumpy(), expected, rtol=1e-5)
    average.swap()
    assert (network.weight.asnumpy() == trained).all()


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_loss_scaler_divides_out_what_it_multiplies(dynamic):
    network, step, _ = build(scaler=LossScaler(1024.0, dynamic))
    np.testing.assert_allclose(run(step), by_hand()[1], rtol=1e-5)
    np.testing.assert_allclose(network.weight.asnumpy(), by_hand()[0][-1], rtol=1e-5)


def test_a_step_that_overflows_is_left_out_and_the_factor_halved():
    """A factor of 3e38 makes the gradients infinite: nothing moves, also no weight decay, until it has fallen."""
    scaler = LossScaler(3e38, True)
    network, step, average = build(scaler=scaler, decay=0.9)
    run(step, 1)
    assert (network.weight.asnumpy() == [1, -1]).all() and float(average.updates.asnumpy()) == 0
    assert float(scaler.scale.asnumpy()) == pytest.approx(1.5e38)
    for _ in range(10):
        run(step, 1)
    assert (network.weight.asnumpy() != [1, -1]).all()
    assert float(scaler.scale.asnumpy()) < 1e38


@pytest.mark.parametrize("create", [momentum, adam])
def test_an_overflow_between_two_steps_leaves_no_trace(create):
    """Weights, slots, position in the schedule and average are those of a run without that step, to the digit."""
    states = []
    for scales in ((8.0, 3e38, 8.0), (8.0, 8.0)):
        scaler = LossScaler(8.0, True)
        network, step, average = build(scaler=scaler, decay=0.9, create=create)
        optimizer = step.update.optimizer
        for number, scale in enumerate(scales):
            scaler.scale.set_data(Tensor(scale, ms.float32))
            step(Tensor(IMAGES[min(number, 1)]), Tensor(TARGETS[min(number, 1)]))
        held = [network.weight, *optimizer_slots(optimizer), *average.averages, average.updates]
        states.append([parameter.asnumpy().tolist() for parameter in [*held, optimizer.global_step]])
    assert states[0] == states[1]
    assert states[0][-2:] == [2.0, [2]] and states[0][0] != [1.0, -1.0]


def test_the_factor_doubles_after_a_thousand_good_steps():
    scaler = LossScaler(8.0, True)
    scaler.good_steps.set_data(Tensor(998, ms.int32))
    _, step, _ = build(scaler=scaler, rate=1e-6)
    run(step, 1)
    assert float(scaler.scale.asnumpy()) == 8 and int(scaler.good_steps.asnumpy()) == 999
    run(step, 1)
    assert float(scaler.scale.asnumpy()) == 16 and int(scaler.good_steps.asnumpy()) == 0


def test_freezing_names_what_it_does_not_find():
    network = build_network(load_config(OPTIONS))
    before = len(network.trainable_params())
    count = freeze(network, ["feature_map.backbone.conv0", "feature_map.backbone.layer2"])
    frozen = {p.name for p in network.get_parameters() if not p.requires_grad} - {
        p.name for p in build_network(load_config(OPTIONS)).get_parameters() if not p.requires_grad
    }
    assert "feature_map.backbone.conv0.0.weight" in frozen and count > len(frozen) > 5
    assert not any(name.startswith("feature_map.backbone.conv01") for name in frozen)
    assert len(network.trainable_params()) == before - len(frozen)
    modes = {
        name: cell.use_batch_statistics
        for name, cell in network.cells_and_names()
        if isinstance(cell, BatchNorm)
    }
    assert modes["feature_map.backbone.conv0.1"] is False
    assert modes["feature_map.backbone.conv1.1"] is not False
    with pytest.raises(UserError, match="freeze: no parameter begins with 'backbone'"):
        freeze(network, ["backbone"])
    with pytest.raises(UserError, match="leave nothing to train"):
        freeze(network, ["feature_map"])


@pytest.mark.parametrize("level,tolerance", [("O1", 2e-2), ("O2", 3e-2), ("O3", 5e-2)])
def test_half_precision_is_near_and_not_equal(level, tolerance):
    x = Tensor(np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32))
    network = build_network(load_config(OPTIONS)).set_train(False)
    expected = [output.asnumpy() for output in network(x)]
    names = [p.name for p in network.get_parameters()]
    half = build_network(load_config(OPTIONS)).set_train(False)
    for ours, theirs in zip(half.get_parameters(), network.get_parameters()):
        ours.set_data(theirs)
    set_precision(half, level)
    for output, wanted in zip(half(x), expected):
        difference = np.abs(output.asnumpy().astype(np.float32) - wanted).max()
        assert 0 < difference < tolerance * max(np.abs(wanted).max(), 1)
    assert [p.name for p in half.get_parameters()] == names
    assert {p.dtype for p in half.get_parameters()} == {ms.float32}


def test_recomputing_changes_no_number():
    class Sum(nn.Cell):
        def __init__(self, network):
            super().__init__(auto_prefix=False)
            self.network = network

        def construct(self, x):
            return sum([output.sum() for output in self.network(x)])

    x = Tensor(np.random.default_rng(0).normal(0, 1, (1, 3, 64, 64)).astype(np.float32))
    gradients = []
    weights = None
    for again in (False, True):
        network = build_network(load_config(OPTIONS))
        weights = weights or [p.asnumpy().copy() for p in network.get_parameters()]
        for parameter, value in zip(network.get_parameters(), weights):
            parameter.set_data(Tensor(value))
        if again:
            recompute_backbone(network)
        cell = Sum(network).set_train()
        found = ops.grad(cell, None, ms.ParameterTuple(network.trainable_params()))(x)
        gradients.append([gradient.asnumpy() for gradient in found])
    for plain, recomputed in zip(*gradients):
        np.testing.assert_allclose(recomputed, plain, rtol=1e-5, atol=1e-6)
