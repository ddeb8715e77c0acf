"""An image that is drawn at twice its size, with shadows laid under the objects, and then developed.

Coordinates are scene pixels (floats); x to the right, y down. Angles are radians, clockwise.
"""

import math

import cv2
import numpy as np

SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of OpenCV's coordinates


def rotated(points, centre, angle: float) -> np.ndarray:
    """Points (n, 2) of an object's own frame (x forwards) in the scene."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(points, np.float64) @ np.array([[cos, sin], [-sin, cos]]) + np.asarray(centre)


def rectangle(length: float, width: float) -> np.ndarray:
    """Corners (4, 2) of a rectangle around the origin, `length` along x."""
    x, y = length / 2, width / 2
    return np.array([(-x, -y), (x, -y), (x, y), (-x, y)])


def ellipse(length: float, width: float, count: int = 28) -> np.ndarray:
    """Outline (count, 2) of an ellipse around the origin."""
    turn = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return np.column_stack([np.cos(turn) * length / 2, np.sin(turn) * width / 2])


class Canvas:
    """The image while it is drawn: RGB at twice the size, and a mask of the shadows."""

    def __init__(self, ground: np.ndarray, sun: tuple[float, float], turn: float = 0.0):
        """A canvas.

        Args:
            ground: (H, W, 3) uint8, square.
            sun: where a shadow of height 1 falls, in pixels.
            turn: angle by which all that is drawn is turned around the image's centre.
        """
        self.size = ground.shape[0]
        self.image = cv2.resize(ground, None, fx=SUPERSAMPLE, fy=SUPERSAMPLE, interpolation=cv2.INTER_LINEAR)
        self.shadow = np.zeros(self.image.shape[:2], np.uint8)
        self.sun = np.asarray(sun, np.float64)
        self.turn = turn

    def seen(self, points) -> np.ndarray:
        """Points (n, 2) of the layout where they are in the image."""
        centre = np.full(2, self.size / 2)
        return rotated(np.asarray(points, np.float64) - centre, centre, self.turn)

    def fill(self, points: np.ndarray, colour) -> None:
        """A filled polygon (n, 2)."""
        cv2.fillPoly(self.image, [self._fixed(points)], _rgb(colour), cv2.LINE_AA, _SHIFT)

    def line(self, points: np.ndarray, colour, width: float, closed: bool = False) -> None:
        """A line through points (n, 2), `width` scene pixels wide."""
        thickness = max(1, round(width * SUPERSAMPLE))
        cv2.polylines(self.image, [self._fixed(points)], closed, _rgb(colour), thickness, cv2.LINE_AA, _SHIFT)

    def roughen(self, noise: np.ndarray, strength: float) -> None:
        """Vary the brightness of all that has been drawn by `noise` (H, W) in -1..1, at the scene's size."""
        level = 1 + strength * cv2.resize(noise, self.image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        self.image = np.clip(self.image * level[..., None], 0, 255).astype(np.uint8)

    def cast(self, points: np.ndarray, height: float) -> None:
        """The shadow of a flat-topped object with this outline, `height` shadow lengths high."""
        outline = np.asarray(points)
        hull = cv2.convexHull(np.concatenate([outline, outline + self.sun * height]).astype(np.float32))[:, 0]
        cv2.fillPoly(self.shadow, [self._fixed(hull)], 255, cv2.LINE_AA, _SHIFT)

    def lay_shadows(self, darkness: float = 0.5) -> None:
        """Darken what has been drawn so far where shadows fall; objects are drawn after it."""
        soft = cv2.GaussianBlur(self.shadow, (0, 0), 1.2).astype(np.float32) * (darkness / 255)
        self.image = (self.image * (1 - soft[..., None])).astype(np.uint8)
        self.shadow[:] = 0

    def develop(self, rng: np.random.Generator) -> np.ndarray:
        """The image (H, W, 3) uint8: averaged down, with haze, colour cast, blur and sensor noise."""
        image = cv2.resize(self.image, (self.size, self.size), interpolation=cv2.INTER_AREA).astype(
            np.float32
        )
        haze = rng.uniform(0, 18)
        gain = rng.uniform(0.82, 1.1) * (1 + rng.uniform(-0.05, 0.05, 3))
        image = image * gain * (1 - haze / 255) + haze
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.45, 0.8))
        image += rng.normal(0, rng.uniform(2, 5), image.shape[:2])[..., None]
        image += rng.normal(0, 1.5, image.shape)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _fixed(self, points) -> np.ndarray:
        return np.round(self.seen(points) * SUPERSAMPLE * (1 << _SHIFT)).astype(np.int32)


def _rgb(colour) -> tuple[float, ...]:
    return tuple(float(min(max(value, 0), 255)) for value in colour)


def shade(colour, factor: float) -> tuple[float, ...]:
    """A colour made lighter (over 1) or darker."""
    return tuple(float(value) * factor for value in colour)


def fractal_noise(rng: np.random.Generator, size: int, scales=(256, 96, 32, 10, 3)) -> np.ndarray:
    """Noise (size, size) float32 in about -1..1 with structure at several scales, in pixels."""
    total = np.zeros((size, size), np.float32)
    for rank, scale in enumerate(scales):
        cells = max(2, size // scale + 2)
        layer = rng.normal(0, 1, (cells, cells)).astype(np.float32)
        total += cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC) * 0.75**rank
    return total / np.abs(total).max()
