"""What a network's heads are: strides, anchors and grid sensitivity, one description for all that needs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UserError

# Imported where it is used: the options import this module before a run blocks its signals
# (`src/runtime/stop_request.py`), and the threads that numpy starts would receive them.
if TYPE_CHECKING:
    import numpy as np

# Strides of the outputs of each network, the coarsest first. The names are Darknet's.
STRIDES_OF = {"yolov4": (32, 16, 8), "yolov4-tiny": (32, 16), "yolov4-tiny-3l": (32, 16, 8)}

ANCHORS_A_CELL = 3

# Of the published YOLOv4, for strides 8, 16, 32.
STRIDES = STRIDES_OF["yolov4"]
ANCHORS = ((12, 16), (19, 36), (40, 28), (36, 75), (76, 55), (72, 146), (142, 110), (192, 243), (459, 401))
SCALE_X_Y = (1.2, 1.1, 1.05)


@dataclass(frozen=True)
class Heads:
    """The heads of a network in the order of its outputs, the coarsest stride first.

    Attributes:
        strides: pixels of the input a cell, of each head.
        anchors: of each head three (width, height) in pixels of the input.
        scale_x_y: grid sensitivity of each head.
    """

    strides: tuple[int, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    scale_x_y: tuple[float, ...]

    @classmethod
    def of(cls, network: str, anchor_scales: Sequence, scale_x_y: Sequence[float]) -> "Heads":
        """The heads of a network by its name, from options that begin with the finest stride.

        Args:
            network: a name of `STRIDES_OF`.
            anchor_scales: (3 heads, 2) width and height in pixels of the input, three a head.
            scale_x_y: a factor a head.

        Raises:
            UserError: another number of anchors or factors, or an anchor without area.
        """
        strides = STRIDES_OF[network]
        try:
            anchors = [tuple(float(side) for side in pair) for pair in anchor_scales]
        except (TypeError, ValueError):
            anchors = []
        fine_first = ", ".join(map(str, reversed(strides)))
        is_whole = len(anchors) == len(strides) * ANCHORS_A_CELL
        if not is_whole or any(len(pair) != 2 or not all(side > 0 for side in pair) for pair in anchors):
            raise UserError(
                f"anchor_scales: {network} needs {len(strides) * ANCHORS_A_CELL} pairs of a positive width and "
                f"height, three each for strides {fine_first}"
            )
        if len(scale_x_y) != len(strides):
            raise UserError(f"scale_x_y: {network} needs {len(strides)} factors, for strides {fine_first}")
        starts = reversed(range(0, len(anchors), ANCHORS_A_CELL))
        nested = tuple(tuple((w, h) for w, h in anchors[start : start + ANCHORS_A_CELL]) for start in starts)
        return cls(strides, nested, tuple(float(factor) for factor in reversed(scale_x_y)))

    @property
    def anchor_scales(self) -> "np.ndarray":
        """(3 heads, 2) anchors as the option has them, those of the finest stride first."""
        import numpy as np

        return np.array(self.anchors[::-1]).reshape(-1, 2)

    def grid_shapes(self, input_hw: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(height, width) of each head's grid for an input (height, width)."""
        return grid_shapes(input_hw, self.strides)


def grid_shapes(input_hw: Sequence[int], strides: Sequence[int] = STRIDES) -> tuple[tuple[int, int], ...]:
    """(height, width) of the grids of some strides for an input (height, width)."""
    return tuple((input_hw[0] // stride, input_hw[1] // stride) for stride in strides)


YOLOV4 = Heads.of("yolov4", ANCHORS, SCALE_X_Y)
