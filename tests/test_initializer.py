"""Starting weights: their distribution, and that the seed alone decides them."""

import numpy as np
from mindspore import nn

from src.initializer import initialize, set_head_prior


def network():
    return nn.SequentialCell(
        nn.Conv2d(16, 32, 3, has_bias=True), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 1), nn.BatchNorm2d(64)
    )


def values(cell):
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def test_kaiming_uniform_bounds():
    cell = network()
    initialize(cell, 3)
    first = values(cell)
    for name, fan_in in (("0.weight", 16 * 9), ("0.bias", 16 * 9), ("2.weight", 32)):
        bound = 1 / np.sqrt(fan_in)
        drawn = first[name]
        assert np.abs(drawn).max() <= bound
        assert np.abs(drawn).max() > 0.8 * bound
        assert abs(drawn.mean()) < 4 * bound / np.sqrt(3 * drawn.size)
    assert abs(first["0.weight"].std() - 1 / np.sqrt(3 * 16 * 9)) < 0.02 / np.sqrt(16 * 9)
    assert (first["1.gamma"] == 1).all() and (first["1.beta"] == 0).all()


def test_the_seed_alone_decides():
    one, two, other = network(), network(), network()
    for cell, seed in ((one, 1), (two, 1), (other, 2)):
        initialize(cell, seed)
    for name, value in values(one).items():
        np.testing.assert_array_equal(value, values(two)[name])
    assert (values(one)["2.weight"] != values(other)["2.weight"]).any()


def test_head_prior_sets_the_starting_probabilities():
    """Three classes: objectness starts at 0.02 and each class at 1/4, in every anchor; weights stay."""
    head = nn.Conv2d(16, 3 * (5 + 3), 1, has_bias=True)
    cell = nn.SequentialCell(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), head)
    before = values(cell)
    set_head_prior(cell, 0.02)
    bias = head.bias.asnumpy().reshape(3, 8)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias[:, 4])), 0.02, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias[:, 5:])), 0.25, rtol=1e-5)
    np.testing.assert_array_equal(bias[:, :4], before["2.bias"].reshape(3, 8)[:, :4])
    for name in set(before) - {"2.bias"}:
        np.testing.assert_array_equal(before[name], values(cell)[name])
