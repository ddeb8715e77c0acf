"""The head's raw maps to boxes: the formulas and constants of the decoder in numpy and of those in the graph.

    centre = (s sigmoid(t) - (s - 1) / 2 + cell) / cells,  sides = exp(t) anchor / input

as shares of the input, with the grid sensitivity s. `src.yolo.YoloDecoder` decodes in the graph and `decode_maps` in
numpy, for files that give raw maps. `src.loss` has the same formulas on tables of all cells of all heads, and
limits the exponent.
"""

from collections.abc import Sequence

import numpy as np

from ..base.heads import ANCHORS_A_CELL, Heads


def centre_share(activated, scale, cell, cells):
    """Centre on an axis as share of the input: numbers, arrays or tensors.

    Args:
        activated: sigmoid of the raw value.
        scale: grid sensitivity s.
        cell: number of the cell on the axis.
        cells: cells on the axis.
    """
    return (activated * scale - (scale - 1) / 2 + cell) / cells


def cell_constants(
    height: int, width: int, stride: int, anchors
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number x y of each cell (2, H, W), cells on each axis (2,) and anchors (A, 2) as shares of the input; float32."""
    y, x = np.mgrid[:height, :width]
    cells = np.array([width, height], np.float32)
    return np.stack([x, y]).astype(np.float32), cells, np.array(anchors, np.float32) / (cells * stride)


def decode_maps(raw: Sequence[np.ndarray], heads: Heads) -> list[np.ndarray]:
    """Raw maps (N, 3 (5 + C), H, W) to decoded ones (N, H, W, 3, 5 + C), as `src.yolo.YoloDecoder` does.

    Args:
        raw: of each head, the coarsest stride first.
        heads: of the network.
    """
    decoded = []
    for level, stride, scale, anchor in zip(raw, heads.strides, heads.scale_x_y, heads.anchors):
        n, channels, height, width = level.shape
        level = level.reshape(n, ANCHORS_A_CELL, channels // ANCHORS_A_CELL, height, width)
        level = level.transpose(0, 3, 4, 1, 2)
        corners, cells, shares = cell_constants(height, width, stride, anchor)
        out = np.empty(level.shape, np.float32)
        out[..., 4:] = _sigmoid(level[..., 4:])
        corner = corners.transpose(1, 2, 0)[:, :, None]
        out[..., :2] = centre_share(_sigmoid(level[..., :2]), scale, corner, cells)
        out[..., 2:4] = np.exp(level[..., 2:4]) * shares
        decoded.append(out)
    return decoded


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * x) + 0.5  # without overflow
