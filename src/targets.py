"""Assignment of ground-truth boxes to cells and anchors, inside the graph, from a compact box tensor.

A box goes to the anchor that fits it best, and to every anchor that it overlaps by more than 0.213, shapes
compared at a common centre; the cell is the one its centre lies in. The published code does this on the
host in two passes over the boxes, where a later write to a cell overrides an earlier one. Here a pass and
a box's number make a priority, and one scattered maximum finds the winner of every cell, so the cost hardly
depends on the number of boxes.
"""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from .base.errors import UserError
from .base.heads import ANCHORS_A_CELL, YOLOV4, Heads, grid_shapes
from .layers.anchors import SECOND_PASS_OVERLAP


@constexpr
def _anchor_tables(batch, max_box, input_hw, strides, anchors):
    """What the assignment needs of each of A anchors, in published order (finest stride first), as (1, 1, A) tensors.

    Returns anchor width, height, grid width, grid height as float32; as int32 the grid width, the number of
    the first cell of the anchor's stride and the numbers 0..A-1, the row of cells of each image and anchor
    (batch, 1, A), the number of each image's first box (batch, 1, 1), and of each box from 1 (1, max_box, 1).
    """
    grids = grid_shapes(input_hw, strides)
    sizes = [height * width for height, width in grids]
    rows = []
    for level in reversed(range(len(strides))):
        height, width = grids[level]
        for slot, (anchor_w, anchor_h) in enumerate(anchors[level]):
            rows.append((anchor_w, anchor_h, width, height, sum(sizes[:level]), slot))
    table = np.array(rows).T[:, None, None]
    images = np.arange(batch).reshape(-1, 1, 1)
    whole = (
        table[2],
        table[4],
        np.arange(len(rows)).reshape(1, 1, -1),
        images * ANCHORS_A_CELL + table[5],
        images * max_box,
        np.arange(1, max_box + 1).reshape(1, -1, 1),
    )
    as_float = [Tensor(values.astype(np.float32)) for values in table[:4]]
    return (*as_float, *[Tensor(values.astype(np.int32)) for values in whole])


def cell_index(share, cells):
    """floor(share * cells), kept within the grid, without rounding in the product (cells up to 256).

    Centres often lie on the border of two cells. A product rounded to float32 would move those from the cell
    that the published code, which multiplies in double precision, puts them in. Double precision is no
    choice on every device, so the share is multiplied in two pieces, each of them exact.
    """
    high = ops.floor(share * 65536) / 65536
    low = share - high
    index = ops.floor(high * cells + low * cells)
    rounded_up = (high * cells - index) + low * cells < 0
    index = ops.where(rounded_up, index - 1, index)
    return ops.minimum(ops.maximum(index, 0), cells - 1)


def largest(values, places, size):
    """For each of `size` places the largest of the values (0 or more) that go there, 0 where none does.

    `unsorted_segment_max` has kernels on every device; a scattered maximum runs on Ascend's host processors.
    """
    found = ops.unsorted_segment_max(values.reshape(-1), places.reshape(-1), size)
    return ops.maximum(found, ops.zeros_like(found))  # a place without values holds the type's least number


class TargetAssigner(nn.Cell):
    """Dense targets of a batch.

    The cells of all S heads lie on one axis of length T: the grid of stride 32 row by row, then those of
    the finer strides.

    Args:
        num_classes: number of classes C.
        heads: strides and anchors.
        label_smooth: the class targets are 1 - factor and factor / (C - 1), of the winner alone. Otherwise 1
            and 0, and a cell that several boxes were assigned to keeps the classes of all.
        label_smooth_factor: the factor.

    Inputs:
        boxes float32 (N, max_box, 5): x1, y1, x2, y2 in input pixels and class; rows of zeros are padding.
        input_hw: (height, width) of the network's input, multiples of 32.

    Outputs:
        assigned (N, 3, T): 1 where an object is assigned, else 0.
        truth (4, N, 3, T): the object's centre x, y, width, height as shares of the input; 0 elsewhere.
        classes (N, 3, C, T): class targets; of no meaning where nothing is assigned.
        in_stride (N, max_box, S): 1 where the box won a cell of the head, else 0.

    Raises:
        UserError: factor out of range.
    """

    def __init__(
        self,
        num_classes: int,
        heads: Heads = YOLOV4,
        label_smooth: bool = False,
        label_smooth_factor: float = 0.1,
    ):
        super().__init__()
        if not 0 <= label_smooth_factor < 1:
            raise UserError(f"label_smooth_factor: {label_smooth_factor} is outside [0, 1)")
        self.num_classes = num_classes
        self.strides, self.anchors = heads.strides, heads.anchors
        self.label_smooth = label_smooth
        self.on = 1.0 - label_smooth_factor
        self.off = label_smooth_factor / max(num_classes - 1, 1)
        self.argmax = ops.Argmax(-1, ms.int32)

    def construct(self, boxes, input_hw):
        batch, max_box, _ = boxes.shape
        cells = sum([height * width for height, width in grid_shapes(input_hw, self.strides)])
        lanes, place, priority, shares, first_box = self.candidates(boxes, input_hw)
        cell = lanes * cells + place
        winners = largest(priority, cell, batch * ANCHORS_A_CELL * cells)
        won = ops.logical_and(ops.gather(winners, cell, 0) == priority, priority > 0)
        in_stride = ops.amax(
            ops.cast(won, ms.float32).reshape(batch, max_box, len(self.strides), ANCHORS_A_CELL), -1
        )

        # Rows of classes of one anchor are apart by `cells`, as rows of cells are.
        index = (lanes * self.num_classes + ops.cast(boxes[:, :, 4:], ms.int32)) * cells + place
        classes = self._classes(won if self.label_smooth else priority > 0, index, batch, cells)
        winners = winners.reshape(batch, ANCHORS_A_CELL, cells)
        assigned = ops.cast(winners > 0, ms.float32)
        box = ops.where(winners > max_box, winners - max_box, winners)
        box = ops.maximum(box - 1, 0) + first_box
        truth = ops.gather(shares.reshape(4, -1), box, 1) * assigned
        return assigned, truth, classes, in_stride[:, :, ::-1]

    def candidates(self, boxes, input_hw):
        """Where each box may be assigned to, at each of the A anchors, those of the finest stride first.

        Returns:
            int32 (N, max_box, A) that broadcast: the lane (image and anchor of a cell, N times 3), the cell in it
            (of T), and the priority, 0 where the box is not for this anchor; the boxes' centre x, y, width, height as
            shares of the input (4, N, max_box, 1); the number of each image's first box (N, 1, 1).
        """
        batch, max_box, _ = boxes.shape
        anchor_w, anchor_h, grid_w, grid_h, columns, first_cell, numbers, lanes, first_box, order = (
            _anchor_tables(batch, max_box, input_hw, self.strides, self.anchors)
        )
        x1, y1, x2, y2, _ = ops.split(boxes, 1, 2)
        width, height = x2 - x1, y2 - y1
        x, y = (x1 + x2) * 0.5 / input_hw[1], (y1 + y2) * 0.5 / input_hw[0]

        common = ops.minimum(width, anchor_w) * ops.minimum(height, anchor_h)
        overlap = common / (width * height + anchor_w * anchor_h - common)
        best = ops.expand_dims(self.argmax(overlap), -1)
        priority = ops.where(numbers == best, order, 0)
        priority = ops.where(overlap > SECOND_PASS_OVERLAP, order + max_box, priority)
        priority = ops.where(ops.logical_and(width > 0, height > 0), priority, 0)

        column, row = ops.cast(cell_index(x, grid_w), ms.int32), ops.cast(cell_index(y, grid_h), ms.int32)
        place = first_cell + row * columns + column
        shares = ops.stack((x, y, width / input_hw[1], height / input_hw[0]))
        return lanes, place, priority, shares, first_box

    def _classes(self, assigned, index, batch, cells):
        """Class targets (N, 3, C, T): `assigned` (N, max_box, A) says which of the places `index` count."""
        size = batch * ANCHORS_A_CELL * self.num_classes * cells
        flat = largest(ops.cast(assigned, ms.float32), index, size)
        classes = flat.reshape(batch, ANCHORS_A_CELL, self.num_classes, cells)
        if self.label_smooth:
            classes = classes * (self.on - self.off) + self.off
        return classes


def assign_targets(
    boxes: np.ndarray,
    input_hw: Sequence[int],
    num_classes: int,
    *,
    heads: Heads = YOLOV4,
    label_smooth: bool = False,
    label_smooth_factor: float = 0.1,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Targets of one image as the published code lays them out, to look at and to compare.

    Args:
        boxes: (n, 5) x1, y1, x2, y2 in input pixels and class.
        input_hw: (height, width) of the network's input.
        num_classes: number of classes C.
        heads, label_smooth, label_smooth_factor: as of `TargetAssigner`.

    Returns:
        For each head the dense targets (H, W, 3, 5 + C), zero where nothing is assigned: x, y, w, h
        as shares of the input, 1, classes; and the boxes (k, 4) x, y, w, h that won a cell of it.
    """
    boxes = np.asarray(boxes, np.float32).reshape(1, -1, 5)
    input_hw = tuple(int(side) for side in input_hw)
    assigner = TargetAssigner(num_classes, heads, label_smooth, label_smooth_factor)
    assigned, truth, classes, in_stride = (out.asnumpy() for out in assigner(Tensor(boxes), input_hw))
    corners = boxes[0, :, :4].reshape(-1, 2, 2)
    size = np.array(input_hw[::-1], np.float32)
    shares = np.concatenate([corners.sum(1) * np.float32(0.5), corners[:, 1] - corners[:, 0]], 1)
    shares /= np.tile(size, 2)
    used = [shares[in_stride[0, :, level] > 0] for level in range(len(heads.strides))]
    return dense_targets(assigned[0], truth[:, 0], classes[0], input_hw, heads), used


def dense_targets(
    assigned, truth, classes, input_hw: Sequence[int], heads: Heads = YOLOV4
) -> list[np.ndarray]:
    """One image's outputs of `TargetAssigner`, (3, T), (4, 3, T) and (3, C, T), in the published layout.

    Returns:
        For each head (H, W, 3, 5 + C): x, y, w, h, 1, classes where an object is assigned, else 0.
    """
    fields = np.concatenate([truth, assigned[None], classes.transpose(1, 0, 2) * assigned])
    targets, start = [], 0
    for height, width in heads.grid_shapes(input_hw):
        stop = start + height * width
        of_stride = fields[:, :, start:stop].reshape(-1, ANCHORS_A_CELL, height, width)
        targets.append(np.ascontiguousarray(of_stride.transpose(2, 3, 1, 0)))
        start = stop
    return targets
