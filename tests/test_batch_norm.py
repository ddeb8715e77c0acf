"""BatchNorm over the parts of a batch (cross mini-batch normalisation)."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.batch_norm import BatchNorm, collect_batch_norm


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
