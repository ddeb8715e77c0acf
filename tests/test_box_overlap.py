"""GIoU, DIoU and CIoU and their gradients against float64 NumPy written from the papers' formulas."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.layers.box_overlap import KINDS, box_overlap

# predicted, true: x y w h
PAIRS = {
    "same": ((0.5, 0.5, 0.2, 0.1), (0.5, 0.5, 0.2, 0.1)),
    "apart on both axes": ((0.2, 0.2, 0.1, 0.1), (0.7, 0.8, 0.2, 0.1)),
    "apart on one axis": ((0.2, 0.5, 0.1, 0.3), (0.7, 0.5, 0.2, 0.2)),
    "touching at an edge": ((0.3, 0.5, 0.2, 0.2), (0.5, 0.51, 0.2, 0.3)),
    "touching at a corner": ((0.3, 0.3, 0.2, 0.2), (0.5, 0.5, 0.2, 0.2)),
    "nested": ((0.5, 0.5, 0.1, 0.05), (0.52, 0.48, 0.4, 0.3)),
    "around": ((0.5, 0.5, 0.6, 0.5), (0.52, 0.48, 0.1, 0.2)),
    "crossing": ((0.5, 0.5, 0.6, 0.1), (0.48, 0.53, 0.1, 0.5)),
    "overlapping": ((0.45, 0.55, 0.2, 0.3), (0.5, 0.5, 0.25, 0.22)),
}


def reference(kind, predicted, true, weight=None):
    """The overlap in float64, and CIoU's weight of the aspect ratio, which is a constant to the gradient."""
    x, y, w, h = predicted
    u, v, a, b = true
    width = max(min(x + w / 2, u + a / 2) - max(x - w / 2, u - a / 2), 0)
    height = max(min(y + h / 2, v + b / 2) - max(y - h / 2, v - b / 2), 0)
    union = w * h + a * b - width * height
    iou = width * height / union
    hull_w = max(x + w / 2, u + a / 2) - min(x - w / 2, u - a / 2)
    hull_h = max(y + h / 2, v + b / 2) - min(y - h / 2, v - b / 2)
    if kind == "giou":
        return iou - (hull_w * hull_h - union) / (hull_w * hull_h), 0.0
    overlap = iou - ((x - u) ** 2 + (y - v) ** 2) / (hull_w**2 + hull_h**2)
    if kind == "diou":
        return overlap, 0.0
    shape = 4 / math.pi**2 * (math.atan(a / b) - math.atan(w / h)) ** 2
    if weight is None:
        weight = shape / (1 - iou + shape) if shape else 0.0
    return overlap - weight * shape, weight


def planes(pairs):
    columns = np.array(pairs, np.float32).reshape(-1, 8).T
    return [Tensor(column) for column in columns]


@pytest.fixture(scope="module")
def compiled():
    def function(kind):
        def overlap(x, y, w, h, u, v, a, b):
            return box_overlap(kind, (x, y, w, h), (u, v, a, b))

        return ms.jit(overlap), ms.jit(ms.grad(overlap, grad_position=(0, 1, 2, 3)))

    return {kind: function(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_values(compiled, kind):
    ours = compiled[kind][0](*planes(list(PAIRS.values()))).asnumpy()
    for value, (name, pair) in zip(ours, PAIRS.items()):
        assert value == pytest.approx(reference(kind, *pair)[0], abs=2e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_random_boxes(compiled, kind):
    rng = np.random.default_rng(0)
    pairs = rng.uniform(0.1, 0.9, (500, 2, 4))
    ours = compiled[kind][0](*planes(pairs)).asnumpy()
    expected = [reference(kind, *pair)[0] for pair in pairs]
    np.testing.assert_allclose(ours, expected, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(compiled, kind):
    """Central differences of the reference, where the overlap has a gradient (touching boxes have two)."""
    smooth = {name: pair for name, pair in PAIRS.items() if not name.startswith(("touching", "same"))}
    gradients = [g.asnumpy() for g in compiled[kind][1](*planes(list(smooth.values())))]
    for index, (name, (predicted, true)) in enumerate(smooth.items()):
        _, weight = reference(kind, predicted, true)
        for place in range(4):
            step = 1e-6
            up, down = list(predicted), list(predicted)
            up[place] += step
            down[place] -= step
            slope = (reference(kind, up, true, weight)[0] - reference(kind, down, true, weight)[0]) / (
                2 * step
            )
            assert gradients[place][index] == pytest.approx(slope, rel=2e-3, abs=2e-3), (name, place)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_gives_finite_gradients(compiled, kind):
    """Cells without an object are compared with a box of no size; their zero weight must not meet a NaN."""
    pairs = [((0.5, 0.5, 0.2, 0.1), (0, 0, 0, 0)), ((0.5, 0.5, 1e-9, 1e-9), (0, 0, 0, 0)), PAIRS["same"]]
    for gradient in compiled[kind][1](*planes(pairs)):
        assert np.isfinite(gradient.asnumpy()).all()


def test_disjoint_boxes_are_drawn_together(compiled):
    """The gradient of every kind moves a box to the right towards an object on its right."""
    pair = ((0.2, 0.5, 0.1, 0.1), (0.7, 0.5, 0.1, 0.1))
    for kind in KINDS:
        assert compiled[kind][1](*planes([pair]))[0].asnumpy()[0] > 0.01
