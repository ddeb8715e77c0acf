"""Images of what the network is trained on: boxes, and the anchors that the loss assigned them to."""

from collections.abc import Sequence

import cv2
import numpy as np

from ..base.heads import Heads
from ..imaging.visualize import draw_boxes, side_by_side

# RGB of the anchors of each head, the coarsest stride first; all unlike each other and seen on land and water.
STRIDE_COLOURS = ((255, 64, 64), (255, 214, 0), (0, 229, 255))
_CELL_DOT = 2  # radius in pixels of the mark of a cell


def assigned_anchors(
    assigned: np.ndarray, truth: np.ndarray, input_hw: Sequence[int], heads: Heads
) -> np.ndarray:
    """The anchors that one image's boxes were assigned to.

    Args:
        assigned: (3, T) of `TargetAssigner`.
        truth: (4, 3, T) of it.
        input_hw: (height, width) of the input.
        heads: that they were assigned to.

    Returns:
        (k, 7): number of the head, the cell's centre x, y and the anchor's x1, y1, x2, y2
        around the centre of its box, in input pixels.
    """
    rows = []
    start = 0
    for level, (height, width) in enumerate(heads.grid_shapes(input_hw)):
        cells = slice(start, start + height * width)
        for slot, cell in zip(*np.nonzero(assigned[:, cells] > 0)):
            x, y = truth[:2, slot, start + cell] * (input_hw[1], input_hw[0])
            column, row = cell % width, cell // width
            half_w, half_h = np.asarray(heads.anchors[level][slot], float) / 2
            rows.append((
                level, (column + 0.5) * heads.strides[level], (row + 0.5) * heads.strides[level],
                x - half_w, y - half_h, x + half_w, y + half_h,
            ))  # fmt: skip
        start += height * width
    return np.array(rows).reshape(-1, 7)


def draw_assignment(
    image: np.ndarray, boxes: np.ndarray, found: np.ndarray, strides: Sequence[int]
) -> np.ndarray:
    """A copy of the image with boxes in white, anchors in their stride's colour and a dot in each cell.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) x1 y1 x2 y2.
        found: (k, 7) of `assigned_anchors`.
        strides: of the heads.
    """
    canvas = np.ascontiguousarray(image).copy()
    for level, x, y, *box in found.tolist():
        colour = STRIDE_COLOURS[int(level)]
        x1, y1, x2, y2 = (round(value) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 1)
        cv2.circle(canvas, (int(x), int(y)), _CELL_DOT, colour, cv2.FILLED)
    for box in np.round(boxes).astype(int).tolist():
        cv2.rectangle(canvas, tuple(box[:2]), tuple(box[2:]), (255, 255, 255), 1)
    counts = np.bincount(found[:, 0].astype(int), minlength=len(strides))
    canvas[-50:, :98] //= 4
    for row, (stride, colour, count) in enumerate(zip(strides, STRIDE_COLOURS, counts)):
        place = (5, canvas.shape[0] - 7 - 15 * row)
        text = f"stride {stride}: {count}"
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return canvas


def contact_sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size as a grid, row by row, on dark grey."""
    height, width = images[0].shape[:2]
    gap = 8
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 32, np.uint8)
    for number, image in enumerate(images):
        top, left = gap + number // columns * (height + gap), gap + number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def draw_sample(image, boxes, classes, found, strides, class_names, title: str) -> np.ndarray:
    """One training image: its boxes with names on the left, the assigned anchors on the right."""
    left = draw_boxes(image, boxes, classes, class_names)
    titles = (f"{title}: {len(boxes)} boxes", f"assigned anchors: {len(found)}")
    return side_by_side(left, draw_assignment(image, boxes, found, strides), titles)
