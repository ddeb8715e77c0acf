"""The loss against the golden one, closed forms in double precision, and its edges."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.base.errors import UserError
from src.base.heads import STRIDES
from src.loss import OverlapsAny, YoloLoss, cross_entropy


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def value_and_gradients(loss, raw, boxes):
    """Loss, parts and gradients to the three raw maps, as arrays."""
    run = ms.jit(ms.value_and_grad(loss, grad_position=(0, 1, 2), has_aux=True))
    (total, parts), gradients = run(*map(Tensor, raw), Tensor(np.asarray(boxes, np.float32)))
    return float(total.asnumpy()), parts.asnumpy(), [gradient.asnumpy() for gradient in gradients]


@pytest.mark.parametrize("case", ["a", "b"])
def test_loss_and_gradients_equal_golden(case, fixtures):
    golden = np.load(fixtures / "head_and_loss.npz")
    loss = YoloLoss(16, label_smooth=bool(golden[f"{case}_label_smooth"]))
    raw = [golden[f"{case}_raw{level}"] for level in range(3)]
    total, parts, gradients = value_and_gradients(loss, raw, golden[f"{case}_boxes"])
    assert total == pytest.approx(float(golden[f"{case}_loss"]), rel=1e-5)
    np.testing.assert_allclose(parts.sum(1), golden[f"{case}_loss_scales"], rtol=1e-5)
    for level in range(3):
        np.testing.assert_allclose(gradients[level], golden[f"{case}_grad{level}"], rtol=0, atol=1e-4)


def random_raw(rng, batch=1, classes=2, input_hw=(64, 96)):
    shapes = [(batch, 3 * (5 + classes), input_hw[0] // s, input_hw[1] // s) for s in STRIDES]
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


def test_batch_without_objects_is_objectness_alone():
    raw = random_raw(np.random.default_rng(0), batch=2)
    total, parts, gradients = value_and_gradients(YoloLoss(2), raw, np.zeros((2, 4, 5)))
    logits = np.concatenate([level.reshape(2, 3, 7, -1)[:, :, 4].ravel() for level in raw]).astype(np.float64)
    assert total == pytest.approx(np.logaddexp(0, logits).sum() / 2, rel=1e-5)
    assert (parts[:, [0, 2]] == 0).all()
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        others = np.delete(gradient.reshape(2, 3, 7, -1), 4, axis=2)
        assert (others == 0).all()


def test_extreme_maps_keep_loss_and_gradients_finite():
    raw = [
        np.full_like(level, value)
        for level, value in zip(random_raw(np.random.default_rng(0)), (200, -200, 90))
    ]
    boxes = [[[0, 0, 30, 40, 1], [10, 10, 90, 60, 0]]]
    total, _, gradients = value_and_gradients(YoloLoss(2), raw, boxes)
    assert np.isfinite(total)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_padding_pieces_and_gains():
    rng = np.random.default_rng(5)
    raw = random_raw(rng, batch=2)
    corner = rng.uniform(0, 50, (2, 7, 2))
    boxes = np.concatenate(
        [corner, corner + rng.uniform(3, 14, (2, 7, 2)), rng.integers(0, 2, (2, 7, 1))], -1
    )
    _, parts, _gradients = value_and_gradients(YoloLoss(2), raw, boxes)
    assert (parts[:, 1] > 0).all() and parts[2, 0] > 0
    gains, head_gains = np.array([5, 2, 3]), np.array([1, 2, 4])
    padded = np.concatenate([boxes, np.zeros((2, 4, 5))], 1)
    # Small pieces: four of stride 8, the last one partly filled.
    loss = YoloLoss(2, gains=gains, head_gains=head_gains, mask_piece=2 * 288 * 3)
    _, scaled, _ = value_and_gradients(loss, raw, padded)
    np.testing.assert_allclose(scaled, parts * np.outer(head_gains, gains / [10, 1, 1]), rtol=1e-5)


def random_boxes(rng, count):
    return np.concatenate([rng.uniform(0.2, 0.8, (2, count)), rng.uniform(0.05, 0.4, (2, count))]).astype(
        np.float32
    )


def test_overlaps_any_equals_brute_force():
    rng = np.random.default_rng(7)
    truth = random_boxes(rng, 2 * 30).reshape(4, 2, 30)
    near = truth[:, :, rng.integers(0, 30, 400)] * rng.normal(1, 0.08, (4, 2, 400))
    predicted = near.astype(np.float32)
    truth[:, :, 5:9] = 0
    ours = OverlapsAny(0.7)(*map(Tensor, predicted), Tensor(truth)).asnumpy()
    wanted, margin = np.zeros((2, 400)), np.full((2, 400), 1.0)
    for image in range(2):
        x, y, w, h = (plane[:, None] for plane in predicted[:, image].astype(np.float64))
        tx, ty, tw, th = truth[:, image].astype(np.float64)
        common_w = np.minimum(x + w / 2, tx + tw / 2) - np.maximum(x - w / 2, tx - tw / 2)
        common_h = np.minimum(y + h / 2, ty + th / 2) - np.maximum(y - h / 2, ty - th / 2)
        common = common_w.clip(0) * common_h.clip(0)
        best = (common / (w * h + tw * th - common)).max(1)
        wanted[image], margin[image] = best >= 0.7, np.abs(best - 0.7)
    assert 50 < wanted.sum() < 750
    clear = margin > 1e-5
    np.testing.assert_array_equal(ours[clear], wanted[clear])


def test_rows_of_padding_overlap_nothing():
    """Not even predictions at their own place, of their own size, which is none."""
    predicted = np.zeros((4, 1, 6), np.float32)
    predicted[2:, :, 3:] = 1e-25  # an area that underflows
    assert (
        not OverlapsAny(0.7)(*map(Tensor, predicted), Tensor(np.zeros((4, 1, 3), np.float32))).asnumpy().any()
    )


def test_cross_entropy_closed_form():
    logits = np.linspace(-60, 60, 241).astype(np.float32)
    run = ms.jit(cross_entropy)
    for target in (0.0, 0.1, 1.0):
        ours = run(Tensor(logits), Tensor(np.full_like(logits, target))).asnumpy()
        exact = np.logaddexp(0, logits.astype(np.float64)) - logits.astype(np.float64) * target
        # Where the two terms cancel, what is left is the rounding of the logit.
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=5e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="ignore_threshold"):
        YoloLoss(2, ignore_threshold=0)


def test_only_objects_of_its_stride_let_a_prediction_be_ignored():
    """Objects of 400 x 300 and 12 x 16 pixels, which only anchors of stride 32 and of stride 8 fit.

    A confident prediction on the first costs nothing in stride 32, where it may be its object's, and log(1 + e^3) in
    strides 16 and 8, where nobody wants it.
    """
    boxes = np.zeros((1, 4, 5), np.float32)
    boxes[0, :2, :4] = [[16, 66, 416, 366], [14, 4, 26, 20]]
    loss = YoloLoss(2, ignore_threshold=0.5, gains=(1, 1, 1), head_gains=(1, 1, 1))

    def objectness(level=None, cell=(0, 0), anchor=0, stretch=(1.0, 1.0)):
        raw = [np.zeros((1, 3, 7, 416 // stride, 416 // stride), np.float32) for stride in (32, 16, 8)]
        for maps in raw:
            maps[:, :, 4] = -30
        raw[0][0, 1:, 4, 6, 6] = raw[2][0, :2, 4, 1, 2] = 30  # the objects' own cells and anchors
        if level is not None:
            raw[level][0, anchor, 2:4, cell[0], cell[1]] = np.log(stretch)
            raw[level][0, anchor, 4, cell[0], cell[1]] = 3
        _, parts = loss(*(Tensor(maps.reshape(1, 21, *maps.shape[3:])) for maps in raw), Tensor(boxes))
        return parts.asnumpy()[:, 1].tolist()

    cost = float(np.log1p(np.exp(3)))
    assert objectness() == pytest.approx([0, 0, 0], abs=1e-6)
    assert objectness(0, (6, 7), 2, (400 / 459, 300 / 401)) == pytest.approx([0, 0, 0], abs=1e-6)  # IoU 0.84
    assert objectness(2, (1, 2), 2, (12 / 40, 16 / 28)) == pytest.approx([0, 0, 0], abs=1e-6)  # 1, the second
    assert objectness(1, (13, 13), 1, (400 / 76, 300 / 55)) == pytest.approx([0, cost, 0], abs=1e-5)  # 1
    assert objectness(2, (26, 26), 2, (400 / 40, 300 / 28)) == pytest.approx([0, 0, cost], abs=1e-5)  # 0.95
