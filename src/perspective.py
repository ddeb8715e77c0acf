"""MindYOLO's recipe for training images: mosaic on a canvas of twice the input, random perspective, colour gains.

Two things differ from MindYOLO's: pixels are taken at their
centres, so boxes lie on their objects to a fraction of a pixel, and what is shown small is averaged, not
sampled, so small objects do not vanish. Boxes are (n, 4) float32 x1 y1 x2 y2 in pixels, points are
continuous: pixel i of an axis is from i to i + 1.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .transforms import GREY, ResizeGeometry, Sample, flip_sample, paste

# A box stays where it is larger than this many pixels on both sides, shows more than this share of its area
# and is less elongated than this.
_MIN_SIDE, _MIN_AREA, _MAX_ASPECT = 2.0, 0.1, 20.0


@dataclass(frozen=True)
class PerspectiveAugment:
    """Mosaic, rotation, zoom, shift, shear, perspective, colour gains and flip.

    Attributes:
        degrees: largest rotation to either side.
        translate: largest shift, share of the input.
        scale: the zoom is between 1 - scale and 1 + scale; at 1 an image fills the input at its own aspect
            ratio, and a mosaic shows the middle quarter of its canvas.
        shear: largest shear of either axis in degrees.
        perspective: largest perspective of either axis, a pixel; times the input's width + height at most 0.9,
            so that a mosaic stays in front of the horizon.
        hue_gain: the hue is multiplied by a factor between 1 - hue_gain and 1 + hue_gain.
        saturation_gain: likewise the saturation.
        value_gain: likewise the brightness.
        flip: probability of a left-right flip.
        mosaic: probability that the loader gives four images.
        mixup: probability that the loader blends two results.
        grey: level around the images.
    """

    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.9
    shear: float = 0.0
    perspective: float = 0.0
    hue_gain: float = 0.015
    saturation_gain: float = 0.7
    value_gain: float = 0.4
    flip: float = 0.5
    mosaic: float = 0.0
    mixup: float = 0.0
    grey: int = GREY

    def join(self, rng: np.random.Generator, samples: list[Sample], input_hw: tuple[int, int]) -> Sample:
        """One image, or a mosaic of four, seen in a random perspective, in the input (height, width).

        An image is in the middle of a canvas of the input's size; four are around a point in the middle half
        of a canvas of twice that. Only what is seen of the canvas is made.
        """
        view, zoom = self._draw_view(rng, input_hw)
        # Images are resized to the size in which they are shown, so that shrinking averages; a warp that
        # turns them enlarges what zoom is left.
        upright = self.degrees == self.shear == self.perspective == 0
        detail = zoom if upright else min(1.0, zoom)
        spread = 1 if len(samples) == 1 else 2
        middle = np.array([max(1, round(spread * side * detail / 2)) for side in input_hw[::-1]])
        sizes = [_fitted_size(image, input_hw, detail) for image, _, _ in samples]
        places = _centred(middle, sizes[0]) if len(samples) == 1 else _around_point(rng, middle, sizes)

        matrix = view @ np.diag([1 / detail, 1 / detail, 1]) @ _shift(-middle)
        window = _seen_part(matrix, 2 * middle, input_hw)
        canvas = np.full((*(window[2:] - window[:2])[::-1], 3), self.grey, np.uint8)
        laid = [_lay(canvas, window, *entry) for entry in zip(samples, sizes, places)]
        boxes = np.clip(np.concatenate(laid), 0, np.tile(2 * middle, 2))
        classes = np.concatenate([classes for _, _, classes in samples])
        shown, kept = warp_boxes(boxes, matrix, zoom / detail, input_hw)
        matrix = matrix @ _shift(window[:2])
        if not upright:
            return warp(canvas, matrix, input_hw, self.grey), shown, classes[kept]
        image = np.full((*input_hw, 3), self.grey, np.uint8)
        paste(image, canvas, round(matrix[0, 2]), round(matrix[1, 2]))
        return image, shown, classes[kept]

    def finish(self, rng: np.random.Generator, sample: Sample) -> Sample:
        """Colour gains and flip, after a blend."""
        image, boxes, classes = sample
        limits = np.array([self.hue_gain, self.saturation_gain, self.value_gain])
        image = gain_colour(image, *(1 + rng.uniform(-1, 1, 3) * limits))
        if rng.random() < self.flip:
            image, boxes = flip_sample(image, boxes)
        return image, boxes, classes

    def _draw_view(self, rng, input_hw) -> tuple[np.ndarray, float]:
        """Matrix (3, 3) from offsets to the canvas's middle to the input, in pixels; and its zoom.

        The shift is of whole pixels.
        """
        bend = np.eye(3)
        bend[2, :2] = rng.uniform(-self.perspective, self.perspective, 2)
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        zoom = rng.uniform(1 - self.scale, 1 + self.scale)
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        shear = np.eye(3)
        shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-self.shear, self.shear, 2)))
        offset = (0.5 + rng.uniform(-self.translate, self.translate, 2)) * input_hw[::-1]
        return _shift(np.round(offset)) @ shear @ turn @ bend, zoom


def _shift(offset: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = offset
    return matrix


def _fitted_size(image, input_hw, detail) -> tuple[int, int]:
    """(width, height) of the image as large as it fits the input, times `detail`."""
    height, width = image.shape[:2]
    ratio = min(input_hw[0] / height, input_hw[1] / width) * detail
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _centred(middle, size) -> list[tuple[int, int]]:
    return [(int(middle[0] - size[0] // 2), int(middle[1] - size[1] // 2))]


def _around_point(rng, middle, sizes) -> list[tuple[int, int]]:
    """(left, top) of four images: upper left, upper right, lower left and lower right of a drawn point."""
    x, y = (int(rng.uniform(0.5, 1.5) * side) for side in middle)
    (w0, h0), (_, h1), (w2, _), _ = sizes
    return [(x - w0, y - h0), (x, y - h1), (x - w2, y), (x, y)]


def _seen_part(matrix, canvas_wh, input_hw) -> np.ndarray:
    """Window x1 y1 x2 y2 of the canvas that holds what the input shows of it, and a pixel around."""
    corners = np.array([[0, 0, 1], [input_hw[1], 0, 1], [0, input_hw[0], 1], [input_hw[1], input_hw[0], 1]])
    corners = corners @ np.linalg.inv(matrix).T
    whole = np.concatenate([np.zeros(2, int), canvas_wh])
    if (corners[:, 2] <= 0).any():  # the horizon is seen
        return whole
    points = corners[:, :2] / corners[:, 2:]
    low = np.clip(np.floor(points.min(axis=0)) - 1, 0, canvas_wh - 1)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low + 1, canvas_wh)
    return np.concatenate([low, high]).astype(int)


def _lay(canvas, window, sample, size, place) -> np.ndarray:
    """Resize the image and lay it into the canvas, of which there is only the window; its boxes (n, 4).

    Args:
        canvas: the window's pixels.
        window: x1 y1 x2 y2 in the canvas.
        sample: image, boxes, classes.
        size: (width, height) of the resized image.
        place: (left, top) of it in the canvas; it may reach over the edges.
    """
    image, boxes, _ = sample
    across = _seen_stretch(image.shape[1], size[0], place[0], window[0], window[2])
    down = _seen_stretch(image.shape[0], size[1], place[1], window[1], window[3])
    scale_x, pad_x, scale_y, pad_y = size[0] / image.shape[1], place[0], size[1] / image.shape[0], place[1]
    if across and down:
        (x1, x2, left, right), (y1, y2, top, bottom) = across, down
        part = shrink_or_grow(image[y1:y2, x1:x2], (right - left, bottom - top))
        paste(canvas, part, left - window[0], top - window[1])
        scale_x, scale_y = (right - left) / (x2 - x1), (bottom - top) / (y2 - y1)
        pad_x, pad_y = left - x1 * scale_x, top - y1 * scale_y
    return ResizeGeometry(scale_x, scale_y, pad_x, pad_y).forward(boxes)


def _seen_stretch(length, new_length, start, low, high) -> tuple[int, int, int, int] | None:
    """What is between low and high of an axis of an image that goes from start to start + new_length.

    Returns:
        Pixels of the image, from and to, and where they are in the canvas; None where nothing is seen.
    """
    if start >= high or start + new_length <= low:
        return None
    scale = new_length / length
    first = max(0, math.floor((low - start) / scale) - 1)
    last = min(length, math.ceil((high - start) / scale) + 1)
    begin, end = start + round(first * scale), start + round(last * scale)
    return (first, last, begin, end) if end > begin else None


def shrink_or_grow(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Resize (h, w, 3) linearly by a factor over a half, then by averages of 2^m by 2^m pixels.

    That is several times faster than averages over fractions of pixels, and nearly as smooth.
    """
    factor = min(image.shape[1] / size_wh[0], image.shape[0] / size_wh[1])
    fold = 2 ** max(0, math.floor(math.log2(factor)))
    between = cv2.resize(image, (size_wh[0] * fold, size_wh[1] * fold), interpolation=cv2.INTER_LINEAR)
    return between if fold == 1 else cv2.resize(between, size_wh, interpolation=cv2.INTER_AREA)


def warp(canvas: np.ndarray, matrix: np.ndarray, input_hw: tuple[int, int], grey: int = GREY) -> np.ndarray:
    """The canvas (h, w, 3) uint8 in the input, `grey` around it; the matrix (3, 3) maps points."""
    half = np.array([0.5, 0.5])
    matrix = _shift(-half) @ matrix @ _shift(half)  # OpenCV's pixel i is at i
    size, border = (input_hw[1], input_hw[0]), (grey, grey, grey)
    if matrix[2, 0] == matrix[2, 1] == 0:
        affine = matrix[:2] / matrix[2, 2]
        return cv2.warpAffine(canvas, affine, size, flags=cv2.INTER_LINEAR, borderValue=border)
    return cv2.warpPerspective(canvas, matrix, size, flags=cv2.INTER_LINEAR, borderValue=border)


def warp_boxes(
    boxes: np.ndarray, matrix: np.ndarray, zoom: float, input_hw: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes around the warped corners of boxes, clipped to the input; and which of the given ones stay.

    Args:
        boxes: (n, 4) in the canvas, all in front of the horizon of `matrix`.
        matrix: (3, 3), canvas to input, in pixels.
        zoom: lengths grow by this much, apart from shear and perspective; a box that keeps a tenth of its
            area or less (cut off by the input's edge, say) is left out.
        input_hw: (height, width).

    Returns:
        (m, 4) float32, and the mask (n,).
    """
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]]
    corners = corners @ matrix.T
    points = corners[..., :2] / corners[..., 2:]
    limit = np.array([input_hw[1], input_hw[0]])
    low, high = np.clip(points.min(axis=1), 0, limit), np.clip(points.max(axis=1), 0, limit)
    sides = high - low
    area_before = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).prod(axis=1) * zoom**2
    kept = (sides > _MIN_SIDE).all(axis=1) & (sides.prod(axis=1) > _MIN_AREA * area_before)
    kept &= sides.max(axis=1) < _MAX_ASPECT * sides.min(axis=1)
    return np.concatenate([low, high], axis=1)[kept].astype(np.float32), kept


def gain_colour(image: np.ndarray, hue: float, saturation: float, value: float) -> np.ndarray:
    """Multiply hue (round the circle), saturation and value (up to full) of (H, W, 3) uint8 RGB, by tables."""
    levels = np.arange(256)
    tables = np.stack(
        [
            np.round(levels * hue) % 180,  # OpenCV's circle has 180 steps
            np.minimum(np.round(levels * saturation), 255),
            np.minimum(np.round(levels * value), 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)
