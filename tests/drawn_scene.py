"""Scenes of coloured rectangles, and a detector that finds them in the pixels it is shown."""

import cv2
import numpy as np

from src.detect.postprocess import PostprocessOptions
from src.detect.predictions import DecodedMaps

NAMES = ("ship", "plane")
COLOURS = ((230, 40, 30), (30, 60, 235))
GROUND = 90
POST = PostprocessOptions(score_threshold=0.3)
INPUT_HW = (320, 320)


def find_rectangles(images: np.ndarray) -> list[np.ndarray]:
    """Decoded maps of the boxes around the coloured areas of (N, 3, H, W) uint8 images.

    What reaches beyond the image is cut, as a network sees it. Cut areas get the higher score, so that
    a merge by scores alone keeps the wrong ones.
    """
    count, _, height, width = images.shape
    maps = [np.zeros((count, height // s, width // s, 3, 5 + len(NAMES)), np.float32) for s in (32, 16, 8)]
    for number, image in enumerate(images):
        slots = maps[2][number].reshape(-1, 5 + len(NAMES))
        slot = 0
        for label, colour in enumerate(COLOURS):
            near = np.abs(image.astype(np.int16) - np.array(colour)[:, None, None]).max(axis=0) < 70
            areas, _, stats, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8), connectivity=4)
            for x, y, w, h, _ in stats[1:areas].tolist():
                cut = x == 0 or y == 0 or x + w == width or y + h == height
                box = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                slots[slot, :4] = box
                slots[slot, 4] = 0.95 if cut else 0.8
                slots[slot, 5 + label] = 1
                slot += 1
    return maps


def detect_rectangles(images: np.ndarray) -> DecodedMaps:
    """`find_rectangles` as a backend's `detect`."""
    return DecodedMaps(find_rectangles(images), images.shape[2:])


def draw(width: int, height: int, boxes, classes) -> np.ndarray:
    """(height, width, 3) uint8 with filled rectangles (n, 4) x1 y1 x2 y2, whole pixels."""
    image = np.full((height, width, 3), GROUND, np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, classes):
        image[y1:y2, x1:x2] = COLOURS[label]
    return image


def scatter(rng, width: int, height: int, count: int, largest: int, gap: int = 4):
    """Rectangles (n, 4) int that do not touch each other, and their classes."""
    taken = np.zeros((height, width), bool)
    boxes = []
    for _ in range(count * 20):
        w, h = rng.integers(8, largest, 2).tolist()
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        if (
            len(boxes) < count
            and not taken[max(0, y - gap) : y + h + gap, max(0, x - gap) : x + w + gap].any()
        ):
            taken[y : y + h, x : x + w] = True
            boxes.append((x, y, x + w, y + h))
    return np.array(boxes), rng.integers(0, len(NAMES), len(boxes))


def by_place(boxes, classes) -> np.ndarray:
    """(n, 5) x1 y1 x2 y2 class in one order."""
    rows = np.column_stack([np.asarray(boxes, float), classes])
    return rows[np.lexsort(rows.round(1).T)]
