"""Assignment of boxes to cells: the golden targets, and a plain loop over boxes on random ones."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mindspore import Tensor

from src.base.errors import UserError
from src.base.heads import ANCHORS, STRIDES
from src.targets import TargetAssigner, assign_targets, dense_targets

CLASSES = 5
INPUT_HW = (96, 160)
BOXES = 12


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_targets_equal_golden(case, fixtures):
    golden = np.load(fixtures / "targets.npz")
    smooth = bool(golden[f"{case}_label_smooth"])
    boxes, input_hw = golden[f"{case}_boxes"], golden[f"{case}_input_hw"]
    targets, used = assign_targets(boxes, input_hw, 16, label_smooth=smooth)
    for level in range(3):
        np.testing.assert_array_equal(targets[level], golden[f"{case}_y{level}"])
        listed = golden[f"{case}_gt{level}"]
        listed = {tuple(row) for row in listed[listed.any(1)]}
        ours = {tuple(row) for row in used[level]}
        # The published list ends after 90 entries, one for every cell and anchor.
        cut = (targets[level][..., 4] > 0).sum() > 90
        assert listed <= ours if cut else listed == ours


def reference_targets(boxes, input_hw, smooth, factor=0.1):
    """The two passes as loops over boxes and anchors, later writes over earlier ones, in double precision."""
    height, width = input_hw
    targets = [np.zeros((height // s, width // s, 3, 5 + CLASSES)) for s in STRIDES]
    valid = [box for box in boxes.astype(np.float64) if box[2] > box[0] and box[3] > box[1]]
    writes = []
    for second in (False, True):
        for box in valid:
            w, h = box[2] - box[0], box[3] - box[1]
            overlaps = []
            for anchor_w, anchor_h in np.array(ANCHORS, np.float64):
                common = min(w, anchor_w) * min(h, anchor_h)
                overlaps.append(common / (w * h + anchor_w * anchor_h - common))
            for anchor, overlap in enumerate(overlaps):
                if overlap > 0.213 if second else anchor == int(np.argmax(overlaps)):
                    writes.append((box, anchor))
    for box, anchor in writes:
        target = targets[2 - anchor // 3]
        share = np.float32([(box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height])
        column, row = (int(np.floor(v)) for v in share.astype(np.float64) * target.shape[1::-1])
        cell = target[row, column, anchor % 3]
        cell[:5] = [*share, (box[2] - box[0]) / width, (box[3] - box[1]) / height, 1]
        if smooth:
            cell[5:] = factor / (CLASSES - 1)
        cell[5 + int(box[4])] = 1 - factor if smooth else 1
    return targets


@pytest.fixture(scope="module")
def assigners():
    return {smooth: TargetAssigner(CLASSES, label_smooth=smooth) for smooth in (False, True)}


@st.composite
def crowded_boxes(draw):
    """Boxes with corners on whole pixels, many of them alike, so that they compete for cells."""
    rows = []
    for _ in range(draw(st.integers(0, BOXES))):
        x, y = draw(st.integers(0, 14)) * 10, draw(st.integers(0, 8)) * 10
        w, h = draw(st.sampled_from([4, 10, 20, 50, 150])), draw(st.sampled_from([4, 10, 16, 40, 90]))
        rows.append(
            [x, y, min(x + w, INPUT_HW[1]), min(y + h, INPUT_HW[0]), draw(st.integers(0, CLASSES - 1))]
        )
    rows += [[0] * 5] * (BOXES - len(rows))
    return np.array(rows, np.float32)


@settings(max_examples=60, deadline=None)
@given(first=crowded_boxes(), second=crowded_boxes(), smooth=st.booleans())
def test_targets_equal_a_loop_over_boxes(assigners, first, second, smooth):
    batch = np.stack([first, second])
    assigned, truth, classes, in_stride = (
        out.asnumpy() for out in assigners[smooth](Tensor(batch), INPUT_HW)
    )
    for image, boxes in enumerate(batch):
        ours = dense_targets(assigned[image], truth[:, image], classes[image], INPUT_HW)
        wanted = reference_targets(boxes, INPUT_HW, smooth)
        for level in range(3):
            np.testing.assert_allclose(ours[level], wanted[level], rtol=0, atol=1e-6)
            corners = boxes[:, :4] / np.tile(INPUT_HW[::-1], 2)
            shares = np.concatenate(
                [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1
            )
            kept = wanted[level][wanted[level][..., 4] > 0][:, :4]
            has_cell = [
                (np.abs(kept - share).max(1) < 1e-6).any() if len(kept) else False for share in shares
            ]
            # Of boxes that are alike the last one wins; the others share its coordinates.
            won = {tuple(boxes[i, :4]) for i in np.flatnonzero(in_stride[image, :, level])}
            assert won == {tuple(boxes[i, :4]) for i in np.flatnonzero(has_cell)}


def test_padding_rows_change_nothing():
    boxes = np.array([[10, 10, 40, 60, 2], [50, 20, 62, 36, 0]], np.float32)
    padded = np.concatenate([boxes, np.zeros((30, 5), np.float32)])
    for ours, other in zip(assign_targets(boxes, (96, 96), 3)[0], assign_targets(padded, (96, 96), 3)[0]):
        np.testing.assert_array_equal(ours, other)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="label_smooth_factor"):
        TargetAssigner(3, label_smooth_factor=1.0)
