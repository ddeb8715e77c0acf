"""How well two boxes agree, in the graph: GIoU, DIoU and CIoU, the overlaps that box losses are made of."""

import math

from mindspore import ops

EPSILON = 1e-6  # of the published code
KINDS = ("giou", "diou", "ciou")


def box_overlap(kind, predicted, true, epsilon=EPSILON):
    """Overlap of pairs of boxes, within -1..1 (CIoU may fall to -2).

    GIoU = IoU - (hull - union) / hull (https://arxiv.org/abs/1902.09630). DIoU = IoU - d^2 / c^2 with the
    distance d of the centres and the diagonal c of the hull; CIoU = DIoU - a v with
    v = 4 / pi^2 (atan(w'/h') - atan(w/h))^2 and a = v / (1 - IoU + v), through which no gradient goes
    (https://arxiv.org/abs/1911.08287). `epsilon` is added to union and hull.

    Args:
        kind: one of `KINDS`.
        predicted, true: (x, y, w, h) each, centre and size, arrays of one shape.
    """
    x, y, w, h = predicted
    true_x, true_y, true_w, true_h = true
    left, right, top, bottom = x - w / 2, x + w / 2, y - h / 2, y + h / 2
    true_left, true_right = true_x - true_w / 2, true_x + true_w / 2
    true_top, true_bottom = true_y - true_h / 2, true_y + true_h / 2
    common_w = ops.relu(ops.minimum(right, true_right) - ops.maximum(left, true_left))
    common_h = ops.relu(ops.minimum(bottom, true_bottom) - ops.maximum(top, true_top))
    common = common_w * common_h
    union = w * h + true_w * true_h - common + epsilon
    hull_w = ops.maximum(right, true_right) - ops.minimum(left, true_left)
    hull_h = ops.maximum(bottom, true_bottom) - ops.minimum(top, true_top)
    iou = common / union
    if kind == "giou":
        hull = hull_w * hull_h + epsilon
        return ops.clamp(iou - (hull - union) / hull, -1.0, 1.0)
    distance = (ops.square(x - true_x) + ops.square(y - true_y)) / (
        ops.square(hull_w) + ops.square(hull_h) + epsilon
    )
    if kind == "diou":
        return iou - distance
    # Boxes without height (padding) have no aspect ratio: 1e-6 keeps the gradient finite there.
    angle = ops.atan(true_w / (true_h + epsilon)) - ops.atan(w / (h + epsilon))
    shape = ops.square(angle) * (4 / math.pi**2)
    weight = ops.stop_gradient(shape / (1 - iou + shape + epsilon))
    return iou - distance - weight * shape
