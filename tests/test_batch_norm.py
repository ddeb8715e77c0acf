"""BatchNorm over the parts of a batch (cross mini-batch normalisation)."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.layers.batch_norm import BatchNorm, collect_batch_norm
from src.train.network_setup import freeze


class Refuses(nn.Cell):
    """In place of the reduction over ranks, which a single process has not: it must not be asked."""

    def construct(self, x):
        raise RuntimeError("a frozen layer asked the other ranks")


@pytest.mark.parametrize("option", ["sync_bn", "cmbn"])
def test_a_frozen_layer_keeps_its_statistics(option):
    """Frozen layers normalise by their moving statistics, also where others take them over ranks or parts."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(1)
    network = nn.SequentialCell(BatchNorm(3), nn.Conv2d(3, 3, 1))
    frozen = network[0]
    for parameter, low in (
        (frozen.gamma, 0.5),
        (frozen.beta, -1),
        (frozen.moving_mean, -1),
        (frozen.moving_variance, 0.5),
    ):
        parameter.set_data(Tensor(rng.uniform(low, 2, 3).astype(np.float32)))
    moving = {p.name: p.asnumpy().copy() for p in (frozen.moving_mean, frozen.moving_variance)}
    assert freeze(network, ["0"]) == 4
    if option == "sync_bn":
        frozen.ranks, frozen.all_reduce = 2, Refuses()
    else:
        assert collect_batch_norm(network) == []
    frozen.set_train()
    x = rng.normal(3, 2, (4, 3, 5, 6)).astype(np.float32)
    y = frozen(Tensor(x)).asnumpy()
    kept = (frozen.gamma, frozen.beta, frozen.moving_mean, frozen.moving_variance)
    gamma, beta, mean, variance = (p.asnumpy().astype(np.float64)[:, None, None] for p in kept)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta, rtol=1e-4, atol=1e-5)
    for parameter in (frozen.moving_mean, frozen.moving_variance):
        assert np.array_equal(parameter.asnumpy(), moving[parameter.name])


def test_parts_are_normalised_by_the_moments_so_far():
    """Part i by the mean and variance of parts 1 to i; the gradient goes through its own part alone."""
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    parts = rng.normal(2, 3, (3, 2, 4, 5, 6)).astype(np.float32)
    weight = rng.normal(0, 1, parts.shape[1:]).astype(np.float32)
    cell = BatchNorm(4)
    cell.gamma.set_data(Tensor(rng.uniform(0.5, 2, 4).astype(np.float32)))
    cell.beta.set_data(Tensor(rng.normal(0, 1, 4).astype(np.float32)))
    sums = collect_batch_norm(nn.SequentialCell(cell))

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.norm = cell

        def construct(self, x):
            y = self.norm(x)
            return (y * Tensor(weight)).sum(), y

    class Step(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.loss = Loss()
            self.value_and_grad = ops.value_and_grad(self.loss, 0, None, has_aux=True)

        def construct(self, x):
            return self.value_and_grad(x)

    step = Step().set_train()
    gamma, beta = (p.asnumpy().astype(np.float64)[:, None, None] for p in (cell.gamma, cell.beta))

    def by_hand(before, own):
        seen = np.concatenate([*before, own]).astype(np.float64)
        mean, variance = seen.mean((0, 2, 3), keepdims=True), seen.var((0, 2, 3), keepdims=True)
        return (own - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    moving = np.zeros(4)
    for index, part in enumerate(parts):
        (_, y), gradient = step(Tensor(part))
        np.testing.assert_allclose(y.asnumpy(), by_hand(parts[:index], part), atol=2e-4)
        for place in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 3, 1, 5)]:
            up, down = part.astype(np.float64), part.astype(np.float64)
            up[place] += 1e-4
            down[place] -= 1e-4
            slope = ((by_hand(parts[:index], up) - by_hand(parts[:index], down)) * weight).sum() / 2e-4
            np.testing.assert_allclose(gradient.asnumpy()[place], slope, atol=2e-3)
        moving += 0.1 * (parts[: index + 1].astype(np.float64).mean((0, 1, 3, 4)) - moving)
    np.testing.assert_allclose(cell.moving_mean.asnumpy(), moving, atol=1e-4)
    for parameter in sums:  # the next batch starts afresh
        parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))
    (_, y), _ = step(Tensor(parts[1]))
    np.testing.assert_allclose(y.asnumpy(), by_hand(parts[:0], parts[1]), atol=2e-4)
