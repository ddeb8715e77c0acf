"""Decoded maps as a network would give them, drawn at random."""

import numpy as np


def decoded_maps(rng: np.random.Generator, size: int, classes: int) -> dict[str, np.ndarray]:
    """Decoded maps of three strides for two cases: one box in fifty passes the threshold, and all do."""
    maps = {}
    for kind, share in (("trained", 0.02), ("untrained", 1.0)):
        for level, stride in enumerate((32, 16, 8)):
            side = size // stride
            found = rng.random((side, side, 3, 5 + classes)).astype(np.float32) ** 3
            rows, columns = np.mgrid[:side, :side] + 0.5
            found[..., 0], found[..., 1] = columns[..., None] / side, rows[..., None] / side
            found[..., 2:4] = rng.random((side, side, 3, 2)) * 4 * stride / size + 0.01
            passes = rng.random((side, side, 3)) < share
            found[..., 4] = np.where(passes, rng.random((side, side, 3)) ** 2, 1e-5)
            maps[f"{kind}{level}"] = found
    return maps
