"""DropBlock and self-adversarial training."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from numpy.lib.stride_tricks import sliding_window_view

from src.layers.drop_block import DropBlock
from src.train.adversarial import SelfAdversary
from src.train.train_step import ForwardLoss


@pytest.fixture(autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def masks(rate, size, shape, count=20):
    """Masks of `count` random maps of one shape."""
    cell = DropBlock(rate, size).set_train()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        x = rng.normal(5, 1, shape).astype(np.float32)
        y = cell(Tensor(x)).asnumpy()
        dropped = (y == 0).all(axis=1)
        assert ((y == 0).any(axis=1) == dropped).all()  # all channels of a place or none
        kept = ~dropped
        factor = kept.size / max(kept.sum(), 1)
        np.testing.assert_allclose(y, x * (kept * factor)[:, None], rtol=1e-5)
        found.append(dropped)
    return np.array(found)


@pytest.mark.parametrize("rate,size", [(0.1, 7), (0.2, 3), (0.1, 1)])
def test_about_the_rate_is_dropped_in_whole_blocks(rate, size):
    found = masks(rate, size, (4, 3, 26, 26))
    # Blocks overlap, so a little less than the rate is dropped.
    assert rate * 0.75 < found.mean() < rate * 1.1
    # Every dropped place lies in a full square of dropped ones.
    for mask in found.reshape(-1, 26, 26)[:20]:
        full = sliding_window_view(mask, (size, size)).all(axis=(2, 3))
        covered = np.zeros_like(mask)
        for y, x in zip(*np.nonzero(full)):
            covered[y : y + size, x : x + size] = True
        assert (covered == mask).all()


def test_places_and_steps_differ():
    """No place is dropped always or never, no two maps alike, and each image of a batch has its own mask."""
    found = masks(0.2, 3, (4, 3, 26, 26), count=100)
    share = found.mean(axis=(0, 1))
    assert share[3:-3, 3:-3].max() < 0.4 and share[3:-3, 3:-3].min() > 0.05
    flat = found.reshape(len(found), -1)
    assert len(np.unique(flat, axis=0)) == len(found)
    assert not (found[:, 0] == found[:, 1]).all()


def test_the_same_map_drops_the_same_and_inference_drops_nothing():
    x = Tensor(np.random.default_rng(1).normal(0, 1, (2, 3, 13, 20)).astype(np.float32))
    assert (DropBlock(0.3, 3)(x).asnumpy() == x.asnumpy()).all()
    cell = DropBlock(0.3, 3).set_train()  # a cell keeps the mode that it was first run in
    assert (cell(x).asnumpy() == cell(x).asnumpy()).all()
    assert (cell(x).asnumpy() == 0).any()


def test_a_map_smaller_than_a_block():
    found = masks(0.5, 7, (2, 3, 4, 4), count=60)
    assert 0.3 < found.mean() < 0.7  # all or nothing of a map


class Scaled(nn.Cell):
    def construct(self, x):
        return (ops.cast(x, ms.float32) - 100) / 50


class Fixed(nn.Cell):
    """Three outputs, all sums of weights times pixels."""

    def __init__(self):
        super().__init__()
        self.weight = Tensor(np.array([1, -2, 0], np.float32).reshape(1, 3, 1, 1))

    def construct(self, x):
        y = (x * self.weight).sum((1, 2, 3))
        return y, y, y


class Sum(nn.Cell):
    """The output, and the objects, which the adversary must not see."""

    def construct(self, large, medium, small, boxes):
        total = large.sum() + 1000 * boxes.sum() * large.sum()
        return total, total.reshape(1, 1)


def test_the_adversary_goes_against_the_gradient_within_its_strength():
    """Weights 1, -2, 0 on red, green, blue: red falls by 4, green rises by 4, blue stays; 0..255 is kept."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 6), np.uint8)
    adversary = SelfAdversary(ForwardLoss(Scaled(), Fixed(), Sum()), 4.0)
    changed = adversary(Tensor(images), Tensor(np.full((2, 4, 5), -1, np.float32))).asnumpy()
    assert changed.dtype == np.uint8
    expected = np.clip(images.astype(int) + np.array([-4, 4, 0]).reshape(1, 3, 1, 1), 0, 255)
    assert (changed == expected).all()
