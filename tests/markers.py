"""Bright markers on the corners of a box, drawn into an image and found again in what became of it."""

import numpy as np

from src.transforms import GREY


def corner_points(box) -> list[tuple[int, int]]:
    """The four corners of x1 y1 x2 y2."""
    x1, y1, x2, y2 = box
    return [(x1, y1), (x2, y1), (x1, y2), (x2, y2)]


def marked(width: int, height: int, points: list[tuple[int, int]], radius: int) -> np.ndarray:
    """An image as grey as padding; up to three squares of 2 radius around the points, one in each channel."""
    image = np.full((height, width, 3), GREY, np.uint8)
    for channel, (x, y) in enumerate(points):
        image[y - radius : y + radius, x - radius : x + radius, channel] = 255
    return image


def find(image: np.ndarray, channel: int) -> tuple[np.ndarray, float] | None:
    """Centre (x, y) and brightness of the one marker of a channel, wherever it is; None if not wholly inside."""
    shown = np.clip(image[..., channel].astype(float) - GREY - 8, 0, None)
    edges = shown[0].sum() + shown[-1].sum() + shown[:, 0].sum() + shown[:, -1].sum()
    if not shown.any() or edges:
        return None
    rows, columns = np.indices(shown.shape)
    centre = np.array([(columns * shown).sum(), (rows * shown).sum()]) / shown.sum() + 0.5
    return centre, float(shown.sum())
