"""The normalisation of pixels, (x - 255 mean) / (255 std), whatever computes it.

The network's own cell (`src.yolo.Normalize`), a client of an exported file (`src.detect.backends`) and AIPP, a part
of the card (`src.export.offline_model`), take their constants from here.
"""

from collections.abc import Sequence

import numpy as np


def pixel_constants(
    mean: Sequence[float], std: Sequence[float], kind=np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """What to subtract from pixels 0..255 of each channel, and what to multiply by: arrays (3, 1, 1) of a kind.

    Args:
        mean, std: of RGB in 0..1.
        kind: numpy's type of the constants.
    """
    mean, std = (np.array(values, kind).reshape(3, 1, 1) * 255 for values in (mean, std))
    return mean, 1 / std


def normalised(pixels, mean, factor):
    """Normalised pixels, arrays or tensors, by the constants."""
    return (pixels - mean) * factor
