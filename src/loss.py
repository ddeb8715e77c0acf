"""Loss of YOLOv4: boxes, objectness and classes, with targets assigned in the graph from a box tensor.

The maps of all strides are put side by side on one axis of cells, as `src.targets` does, so that one
run over large tensors does the work of one for each. What takes no gradient (targets, ignore mask) is built from
detached values.
"""

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from .base.errors import UserError
from .base.heads import ANCHORS_A_CELL, YOLOV4, Heads, grid_shapes
from .layers.box_overlap import KINDS, box_overlap
from .layers.decoding import centre_share
from .pair_loss import PairLoss, box_weight
from .targets import TargetAssigner

# exp() of more than this is no box, and an infinite one would turn the loss of a whole batch into NaN.
LARGEST_LOG_SIZE = 20.0
# Pairs of a box and a prediction in a piece of the ignore mask. Every piece is compiled, so few are better; a CPU is
# as fast with larger pieces.
MASK_PIECE = 1 << 22


@constexpr
def _cell_tables(input_hw, strides, anchors, scale_x_y):
    """Constants of every cell: corner x, y (1, 1, T), grid width, height, factor s, anchor w, h (1, 3, T)."""
    columns = []
    for level, (height, width) in enumerate(grid_shapes(input_hw, strides)):
        y, x = (grid.ravel() for grid in np.mgrid[:height, :width])
        same = np.ones(height * width)
        shares = np.array(anchors[level]) / np.array(input_hw[::-1])
        sizes = [width * same, height * same, scale_x_y[level] * same]
        columns.append(np.stack([x, y, *sizes, *np.outer(shares.T.ravel(), same)]))
    table = np.concatenate(columns, 1).astype(np.float32)
    single = [Tensor(row[None, None]) for row in table[:5]]
    return (*single, Tensor(table[5:8][None]), Tensor(table[8:11][None]))


@constexpr
def _first_cells(input_hw, strides, shape):
    """1 at the first cell of each stride of the first image's first anchor, else 0, of a shape (N, 3, T)."""
    mask = np.zeros(shape, np.float32)
    sizes = [rows * columns for rows, columns in grid_shapes(input_hw, strides)]
    mask[0, 0, [0, *np.cumsum(sizes)[:-1]]] = 1
    return Tensor(mask)


def cross_entropy(logit, target):
    """Binary cross entropy of a logit: log(1 + exp(x)) - x t, four times as fast on the CPU as the kernel."""
    return ops.softplus(logit) - logit * target


class OverlapsAny(nn.Cell):
    """Whether the IoU of a prediction with any of the boxes reaches a threshold; passes no gradient.

    Goes through the boxes in a number of pieces that the shapes alone fix: a graph whose course depends on
    data is refused by Ascend's graph engine. All rows take part, those of padding too, so the loader makes no
    more of them than its data set needs.

    Args:
        threshold: the least IoU, in (0, 1].
        piece: most pairs of a box and a prediction that are looked at at once; more memory, fewer kernels.

    Inputs:
        x, y, w, h: predictions (N, K), centre and size.
        boxes: (4, N, M) centre and size; boxes without area count for nothing.

    Outputs:
        float32 (N, K): 1 or 0.
    """

    def __init__(self, threshold: float, piece: int = MASK_PIECE):
        super().__init__()
        # IoU >= t means common >= t / (1 + t) * (area + area').
        self.share = threshold / (1 + threshold)
        self.piece = piece

    def construct(self, x, y, w, h, boxes):
        n, k = x.shape
        count = boxes.shape[2]
        rows = max(1, self.piece // (n * k))
        box_x, box_y, box_w, box_h = ops.unstack(ops.expand_dims(boxes, -1), 0)
        edges = (box_x - box_w / 2, box_x + box_w / 2, box_y - box_h / 2, box_y + box_h / 2)
        area = box_w * box_h
        # A row of padding stays below the area of every prediction, one without size included.
        edges = (*edges, ops.where(area > 0, area * self.share, 1.0))
        planes = (x - w / 2, x + w / 2, y - h / 2, y + h / 2, w, h)
        left, right, top, bottom, width, height = [ops.expand_dims(plane, 1) for plane in planes]
        most = ops.zeros((n, k), ms.float32) - 1
        for start in range(0, count, rows):
            # min(right, right') - max(left, left') is written with relu: minimum and maximum of operands
            # that need broadcasting are twenty times slower on the CPU. The prediction's own area stays
            # out of the pairs.
            box_left, box_right, box_top, box_bottom, box_share = [
                edge[:, start : min(start + rows, count)] for edge in edges
            ]
            common_w = ops.relu(width - (ops.relu(right - box_right) + ops.relu(box_left - left)))
            common_h = height - (ops.relu(bottom - box_bottom) + ops.relu(box_top - top))
            most = ops.maximum(most, ops.amax(common_w * common_h - box_share, 1))
        return ops.cast(most >= w * h * self.share, ms.float32)

    def bprop(self, x, y, w, h, boxes, out, dout):
        zero = ops.zeros_like(x)
        return zero, zero, zero, zero, ops.zeros_like(boxes)


class YoloLoss(nn.Cell):
    """Loss of a batch.

    Box: gain * (2 - w h) * (1 - overlap), w and h the object's as shares of the input. Objectness: binary cross
    entropy of cells with an object and of those whose prediction overlaps no object of their stride by
    `ignore_threshold`. Class: binary cross entropy of cells with an object. All summed over cells and divided
    by the batch. The last four arguments make it MindYOLO's.

    Args:
        num_classes: number of classes C.
        heads: strides, anchors and grid sensitivity of the S heads.
        ignore_threshold: IoU from which a prediction without an object is no negative.
        label_smooth, label_smooth_factor: as of `TargetAssigner`.
        gains: of box, objectness, class.
        head_gains: of the heads, the coarsest stride first.
        box_kind: giou as published, diou or ciou (`src.layers.box_overlap`).
        mask_piece: as `piece` of `OverlapsAny`.
        assignment: cell, or pair: box and class loss of `PairLoss`.
        box_weight: size or flat, as of `src.pair_loss.box_weight`.
        ignore_scope: whose overlap lets a prediction be ignored: of the objects of its stride, or of its image.
        padding_is_object: each batch has an object in the first cell and anchor of each stride of its first image,
            where MindYOLO's rows of padding put one. Only its objectness counts.

    Inputs:
        the raw maps of the network, (N, 3 * (5 + C), H, W) each, the coarsest stride first.
        boxes float32 (N, max_box, 5): x1, y1, x2, y2 in input pixels and class; rows of zeros are padding.

    Outputs:
        The loss, a scalar, and its parts (S, 3): heads by box, objectness, class.

    Raises:
        UserError: an argument out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        heads: Heads = YOLOV4,
        ignore_threshold: float = 0.7,
        label_smooth: bool = False,
        label_smooth_factor: float = 0.1,
        gains: Sequence[float] = (10, 1, 1),
        head_gains: Sequence[float] | None = None,
        box_kind: str = "giou",
        mask_piece: int = MASK_PIECE,
        assignment: str = "cell",
        box_weight: str = "size",
        ignore_scope: str = "stride",
        padding_is_object: bool = False,
    ):
        super().__init__()
        if not 0 < ignore_threshold <= 1:
            raise UserError(f"ignore_threshold: {ignore_threshold} is outside (0, 1]")
        if box_kind not in KINDS:
            raise UserError(f"box_loss: {box_kind!r} is not one of {', '.join(KINDS)}")
        self.box_kind = box_kind
        self.num_classes = num_classes
        if head_gains is None:
            head_gains = (1,) * len(heads.strides)
        if len(head_gains) != len(heads.strides):
            raise UserError(
                f"detect_head_loss_coff: {len(heads.strides)} gains are needed, one for each head"
            )
        self.strides, self.anchors, self.scale_x_y = heads.strides, heads.anchors, heads.scale_x_y
        self.overlaps_any = OverlapsAny(ignore_threshold, mask_piece)
        self.assigner = TargetAssigner(num_classes, heads, label_smooth, label_smooth_factor)
        self.by_pair, self.weight_kind = assignment == "pair", box_weight
        self.over_image, self.padding_is_object = ignore_scope == "image", padding_is_object
        smooth = (self.assigner.on, self.assigner.off) if label_smooth else (1.0, 0.0)
        self.pair_loss = PairLoss(num_classes, box_kind, box_weight, *smooth, levels=len(heads.strides))
        self.gains = Tensor(np.outer(head_gains, gains).astype(np.float32))

    def construct(self, *maps_and_boxes):
        maps, boxes = maps_and_boxes[:-1], maps_and_boxes[-1]
        n, channels, height, width = maps[0].shape
        input_hw = (height * self.strides[0], width * self.strides[0])
        shape = (n, ANCHORS_A_CELL, channels // ANCHORS_A_CELL, -1)
        raw = ops.concat([raw.reshape(shape) for raw in maps], -1)
        raw = ops.cast(raw, ms.float32)
        t_x, t_y, t_w, t_h, t_object, t_class = ops.split(raw, [1, 1, 1, 1, 1, self.num_classes], 2)

        cell_x, cell_y, grid_w, grid_h, s, anchor_w, anchor_h = _cell_tables(
            input_hw, self.strides, self.anchors, self.scale_x_y
        )
        x = centre_share(ops.sigmoid(t_x.squeeze(2)), s, cell_x, grid_w)
        y = centre_share(ops.sigmoid(t_y.squeeze(2)), s, cell_y, grid_h)
        w = ops.exp(ops.clamp(t_w.squeeze(2), max=LARGEST_LOG_SIZE)) * anchor_w
        h = ops.exp(ops.clamp(t_h.squeeze(2), max=LARGEST_LOG_SIZE)) * anchor_h

        assigned, truth, classes, in_stride = self.assigner(boxes, input_hw)
        assigned, truth = ops.stop_gradient(assigned), ops.stop_gradient(truth)
        counted = ops.stop_gradient(self._counted(x, y, w, h, boxes, in_stride, input_hw))
        occupied = self._with_padding(assigned, input_hw) if self.padding_is_object else assigned
        objectness = cross_entropy(t_object.squeeze(2), occupied) * ops.maximum(occupied, counted)
        if self.by_pair:
            lanes, place, priority, shares, _ = self.assigner.candidates(boxes, input_hw)
            pairs = (lanes, place, priority, ops.stop_gradient(shares))
            box_sums, class_sums = self.pair_loss(x, y, w, h, t_class, boxes, *pairs, input_hw)
        else:
            true_x, true_y, true_w, true_h = truth[0], truth[1], truth[2], truth[3]
            weight = assigned * box_weight(self.weight_kind, true_w, true_h, input_hw)
            overlap = box_overlap(self.box_kind, (x, y, w, h), (true_x, true_y, true_w, true_h))
            box_sums = self._by_stride(weight * (1 - overlap), input_hw)
            class_loss = cross_entropy(t_class, ops.stop_gradient(classes)).sum(2) * assigned
            class_sums = self._by_stride(class_loss, input_hw)
        parts = ops.stack((box_sums, self._by_stride(objectness, input_hw), class_sums), 1) * self.gains / n
        return parts.sum(), parts

    def _by_stride(self, values, input_hw):
        """Sums (S,) of (N, 3, T) over the cells of each head."""
        cells = tuple([rows * columns for rows, columns in grid_shapes(input_hw, self.strides)])
        return ops.stack([part.sum() for part in ops.split(values.sum((0, 1)), cells, 0)])

    def _with_padding(self, assigned, input_hw):
        """`assigned` (N, 3, T) with the first image's first cell and anchor of each stride."""
        return ops.maximum(assigned, _first_cells(input_hw, self.strides, assigned.shape))

    def _counted(self, x, y, w, h, boxes, in_stride, input_hw):
        """1 where the prediction overlaps no object of its scope enough to be ignored, (N, 3, T)."""
        x, y, w, h = (ops.stop_gradient(plane) for plane in (x, y, w, h))
        n = x.shape[0]
        x1, y1, x2, y2, _ = ops.split(boxes, 1, 2)
        truth = ops.stack(
            (
                (x1 + x2) * 0.5 / input_hw[1],
                (y1 + y2) * 0.5 / input_hw[0],
                (x2 - x1) / input_hw[1],
                (y2 - y1) / input_hw[0],
            )
        ).squeeze(-1)
        if self.over_image:
            planes = [plane.reshape(n, -1) for plane in (x, y, w, h)]
            return 1 - self.overlaps_any(*planes, truth).reshape(n, ANCHORS_A_CELL, -1)
        masks, start = [], 0
        for level, (rows, columns) in enumerate(grid_shapes(input_hw, self.strides)):
            stop = start + rows * columns
            planes = [plane[:, :, start:stop].reshape(n, -1) for plane in (x, y, w, h)]
            objects = truth * in_stride[:, :, level]
            masks.append(1 - self.overlaps_any(*planes, objects).reshape(n, ANCHORS_A_CELL, -1))
            start = stop
        return ops.concat(masks, -1)
