"""Box and class loss where every object counts by itself at each anchor that it is assigned to, as in MindYOLO.

In the published code a cell and anchor learns one object, the last that is assigned to it, and the classes of all.
Here objects that share a cell and anchor each pull at its prediction. Predictions are gathered, not targets spread.
"""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .base.heads import ANCHORS_A_CELL
from .layers.box_overlap import box_overlap

EPSILON = 1e-7  # of MindYOLO's overlap


def box_weight(kind, width, height, input_hw):
    """Weight of an object's box loss from its sides as shares of the input: small objects count more.

    size is 2 - w h, as published. flat is MindYOLO's 2 - w h / (W H), with the input's sides W and H in pixels: it
    divides shares by pixels once more, so all objects weigh about 2.
    """
    area = width * height
    if kind == "flat":
        area = area / (input_hw[0] * input_hw[1])
    return 2 - area


class PairLoss(nn.Cell):
    """Sums of the box and class loss over pairs of an object and an anchor.

    Args:
        num_classes: number of classes C.
        box_kind: overlap, as of `src.layers.box_overlap`.
        weight_kind: as of `box_weight`.
        on, off: class targets of the object's class and of the others.
        levels: number S of the heads.

    Inputs:
        x, y, w, h: predictions (N, 3, T), centre and size as shares of the input.
        t_class: logits of the classes (N, 3, C, T).
        boxes (N, max_box, 5), and what `TargetAssigner.candidates` makes of them: lanes, place, priority, shares.
        input_hw: (height, width) of the input.

    Outputs:
        Box loss and class loss of the heads, the coarsest stride first, (S,) each.
    """

    def __init__(
        self,
        num_classes: int,
        box_kind: str,
        weight_kind: str,
        on: float = 1.0,
        off: float = 0.0,
        levels: int = 3,
    ):
        super().__init__()
        self.levels = levels
        self.num_classes, self.box_kind, self.weight_kind = num_classes, box_kind, weight_kind
        self.on, self.off = on, off
        self.numbers = Tensor(np.arange(num_classes, dtype=np.int32))

    def construct(self, x, y, w, h, t_class, boxes, lanes, place, priority, shares, input_hw):
        cells = x.shape[2]
        chosen = ops.cast(priority > 0, ms.float32)
        predicted = [ops.gather(plane.reshape(-1), lanes * cells + place, 0) for plane in (x, y, w, h)]
        true_x, true_y, true_w, true_h = ops.unstack(shares, 0)
        overlap = box_overlap(self.box_kind, predicted, (true_x, true_y, true_w, true_h), EPSILON)
        box_loss = chosen * box_weight(self.weight_kind, true_w, true_h, input_hw) * (1 - overlap)

        # Logit of class c in cell t of lane r is number (r C + c) T + t.
        first = lanes * (self.num_classes * cells) + place
        logit = ops.gather(t_class.reshape(-1), ops.expand_dims(first, -1) + self.numbers * cells, 0)
        is_own = ops.cast(
            ops.expand_dims(ops.cast(boxes[:, :, 4:], ms.int32), -1) == self.numbers, ms.float32
        )
        target = is_own * (self.on - self.off) + self.off
        class_loss = (ops.softplus(logit) - logit * target).sum(-1) * chosen

        return self._by_stride(box_loss), self._by_stride(class_loss)

    def _by_stride(self, values):
        """Sums (S,), the coarsest stride first, of (N, max_box, 3 S), which begins with the finest.

        Not by a slice [::-1]: MindSpore gives that no gradient on the CPU.
        """
        sums = ops.unstack(values.reshape(-1, self.levels, ANCHORS_A_CELL).sum((0, 2)), 0)
        return ops.stack([sums[self.levels - 1 - level] for level in range(self.levels)])
