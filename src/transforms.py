"""Images and boxes to the network's input: random crop, scale, flip and colour for training, a plain
resize for evaluation. `src/perspective.py` has MindYOLO's recipe for training.

Boxes are (n, 4) float32 x1 y1 x2 y2 in pixels. Everything random comes from the generator that is passed.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # image (H, W, 3) uint8, boxes (n, 4), classes (n,)

GREY = 128  # of the padding around an image that does not fill the input
_TRIALS = 10  # draws of a crop until an object stays in it
_MOSAIC_SIDE, _MOSAIC_CENTRE = 768, (192, 576)  # the published canvas, and where its four images may meet

# Pillow's filters of a resize, and how far each reaches, in pixels of the coarser side.
FILTERS = {
    "nearest": (Image.Resampling.NEAREST, 0),
    "bilinear": (Image.Resampling.BILINEAR, 1),
    "bicubic": (Image.Resampling.BICUBIC, 2),
    "lanczos": (Image.Resampling.LANCZOS, 3),
}


@dataclass(frozen=True)
class ResizeGeometry:
    """Map between image and network input: input = image * scale + pad, in pixels."""

    scale_x: float
    scale_y: float
    pad_x: float = 0.0
    pad_y: float = 0.0

    def forward(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the image in the network's input."""
        return (boxes * self._scale + self._pad).astype(np.float32)

    def inverse(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the network's input in the image."""
        return ((boxes - self._pad) / self._scale).astype(np.float32)

    @property
    def _scale(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _pad(self) -> np.ndarray:
        return np.array([self.pad_x, self.pad_y] * 2)


def stretch_for_eval(image: np.ndarray, input_hw: tuple[int, int]) -> tuple[np.ndarray, ResizeGeometry]:
    """The image (H, W, 3) uint8 stretched to the input by Pillow's antialiased bicubic filter."""
    height, width = image.shape[:2]
    return _resize_bicubic(image, input_hw[1], input_hw[0]), stretch_geometry(width, height, input_hw)


def stretch_geometry(width: int, height: int, input_hw: tuple[int, int]) -> ResizeGeometry:
    """How `stretch_for_eval` maps an image of that size."""
    return ResizeGeometry(input_hw[1] / width, input_hw[0] / height)


def letterbox(
    image: np.ndarray, input_hw: tuple[int, int], enlarge: bool = True, grey: int = GREY
) -> tuple[np.ndarray, ResizeGeometry]:
    """The image in the middle of the input at its own aspect ratio, with grey borders.

    Args:
        image: (H, W, 3) uint8.
        input_hw: (height, width) of the input.
        enlarge: also images smaller than the input are made to fill it.
        grey: level of the borders.
    """
    height, width = image.shape[:2]
    geometry = letterbox_geometry(width, height, input_hw, enlarge)
    new_w, new_h = round(width * geometry.scale_x), round(height * geometry.scale_y)
    left, top = int(geometry.pad_x), int(geometry.pad_y)
    canvas = np.full((*input_hw, 3), grey, np.uint8)
    canvas[top : top + new_h, left : left + new_w] = _resize_bicubic(image, new_w, new_h)
    return canvas, geometry


def letterbox_geometry(
    width: int, height: int, input_hw: tuple[int, int], enlarge: bool = True
) -> ResizeGeometry:
    """How `letterbox` maps an image of that size."""
    ratio = min(input_hw[0] / height, input_hw[1] / width)
    if not enlarge:
        ratio = min(ratio, 1.0)
    new_w, new_h = max(1, round(width * ratio)), max(1, round(height * ratio))
    left, top = (input_hw[1] - new_w) // 2, (input_hw[0] - new_h) // 2
    return ResizeGeometry(new_w / width, new_h / height, left, top)


def _resize_bicubic(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class TrainAugment:
    """Random crop, scale, aspect ratio, filter, flip and colour of the published recipe, and its mosaic.

    Attributes:
        jitter: the aspect ratio changes by a factor in (1 - jitter) / (1 + jitter) and its inverse.
        hue: largest shift of the hue, as a fraction of a full turn.
        saturation: largest factor of the saturation, up or down.
        value: largest factor of the brightness, up or down.
        flip: probability of a left-right flip.
        each_multiscale: scale the image by 0.25 to 2 times the input; otherwise it fills the input.
        filters: one of these resizes an image, each as likely as the next (names of `FILTERS`).
        keep_cut: boxes whose centre leaves the input are kept, clipped, as published.
        mosaic: probability that the loader gives four images, which are joined (`mosaic`).
        mixup: probability that the loader blends two results (`mix`).
    """

    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    value: float = 1.5
    flip: float = 0.5
    each_multiscale: bool = True
    filters: tuple[str, ...] = ("nearest", "bilinear", "bicubic", "nearest", "lanczos")
    keep_cut: bool = True
    mosaic: float = 0.0
    mixup: float = 0.0

    def __call__(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        boxes: np.ndarray,
        classes: np.ndarray,
        input_hw: tuple[int, int],
    ) -> Sample:
        """One image (H, W, 3) uint8 with its boxes (n, 4) and classes (n,) in the input.

        Boxes are clipped to the input; those that keep no more than a pixel of it are dropped.
        """
        geometry, new_wh, boxes_in, kept = self._choose_crop(rng, image.shape, boxes, input_hw)
        chosen = self.filters[int(rng.integers(len(self.filters)))]
        flipped = rng.random() < self.flip
        canvas = place(image, geometry, new_wh, input_hw, chosen, colour_tables(*self._draw_colour(rng)))
        if flipped:
            canvas, boxes_in = flip_sample(canvas, boxes_in)
        return canvas, boxes_in, classes[kept]

    def join(self, rng: np.random.Generator, samples: list[Sample], input_hw: tuple[int, int]) -> Sample:
        """One image, or a mosaic of four, in the input."""
        if len(samples) == 1:
            return self(rng, *samples[0], input_hw)
        low, high = _MOSAIC_CENTRE
        x, y = rng.integers(low, high, 2, endpoint=True)
        return self(rng, *mosaic(samples, (int(x), int(y))), input_hw)

    def finish(self, rng: np.random.Generator, sample: Sample) -> Sample:
        """What comes after a blend: nothing, here."""
        return sample

    def _choose_crop(self, rng, image_shape, boxes, input_hw):
        """Where the image goes; drawn again while no object stays, at last the whole image, stretched."""
        height, width = image_shape[:2]
        for trial in range(_TRIALS + 1):
            whole = trial == _TRIALS
            new_w, new_h, dx, dy = (*input_hw[::-1], 0, 0) if whole else self._draw_crop(rng, input_hw)
            geometry = ResizeGeometry(new_w / width, new_h / height, dx, dy)
            boxes_in, kept = clip_boxes(geometry.forward(boxes), input_hw, self.keep_cut)
            if len(boxes_in) or not len(boxes):
                break
        return geometry, (new_w, new_h), boxes_in, kept

    def _draw_crop(self, rng, input_hw) -> tuple[int, int, int, int]:
        """Size of the whole resized image and the place of its corner, which may be outside the input."""
        input_h, input_w = input_hw
        new_w, new_h = input_w, input_h
        if self.each_multiscale:
            low, high = 1 - self.jitter, 1 + self.jitter
            aspect = input_w / input_h * rng.uniform(low, high) / rng.uniform(low, high)
            scale = rng.uniform(0.25, 2.0)
            if aspect < 1:
                new_h = int(scale * input_h)
                new_w = int(new_h * aspect)
            else:
                new_w = int(scale * input_w)
                new_h = int(new_w / aspect)
            new_w, new_h = max(1, new_w), max(1, new_h)
        free_w, free_h = input_w - new_w, input_h - new_h
        dx = int(rng.uniform(min(0, free_w), max(0, free_w)))
        dy = int(rng.uniform(min(0, free_h), max(0, free_h)))
        return new_w, new_h, dx, dy

    def _draw_colour(self, rng) -> tuple[float, float, float]:
        def factor(limit):
            drawn = rng.uniform(1, limit)
            return drawn if rng.random() < 0.5 else 1 / drawn

        return rng.uniform(-self.hue, self.hue), factor(self.saturation), factor(self.value)


def clip_boxes(
    boxes: np.ndarray, input_hw: tuple[int, int], keep_cut: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) that keep more than a pixel of the input on both axes, clipped to it; and their mask (n,).

    Args:
        boxes: x1 y1 x2 y2 in pixels of the input.
        input_hw: (height, width).
        keep_cut: also those whose centre is outside; without, they are dropped.
    """
    limit = np.array([input_hw[1], input_hw[0]], np.float32)
    clipped = np.clip(boxes, 0, np.tile(limit, 2))
    kept = (clipped[:, 2:] - clipped[:, :2] > 1).all(axis=1)
    if not keep_cut:
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept &= ((centres >= 0) & (centres < limit)).all(axis=1)
    return clipped[kept].astype(np.float32), kept


def place(
    image: np.ndarray,
    geometry: ResizeGeometry,
    new_wh: tuple[int, int],
    input_hw: tuple[int, int],
    resize_filter: str,
    tables: np.ndarray | None = None,
) -> np.ndarray:
    """Resize the image to `new_wh` and lay it on a grey input at the geometry's pad; the rest is cut.

    Args:
        image: (H, W, 3) uint8.
        geometry: its pads are whole pixels and may be negative.
        new_wh: (width, height) of the whole resized image.
        input_hw: (height, width) of the input.
        resize_filter: a name of `FILTERS`.
        tables: of `colour_tables`, to change the colours of the result, the grey included.

    Returns:
        (height, width, 3) uint8. Only what the input shows is computed.
    """
    (new_w, new_h), (input_h, input_w) = new_wh, input_hw
    left, top = int(geometry.pad_x), int(geometry.pad_y)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + new_w, input_w), min(top + new_h, input_h)
    part = resample(image, new_wh, (x0 - left, y0 - top, x1 - left, y1 - top), resize_filter)
    grey = GREY
    if tables is not None:
        part = distort_colour(part, tables)
        grey = distort_colour(np.full((1, 1, 3), GREY, np.uint8), tables)[
            0, 0, 0
        ]  # without colour it stays grey
    if part.shape[:2] == (input_h, input_w):
        return part
    canvas = np.full((input_h, input_w, 3), grey, np.uint8)
    canvas[y0:y1, x0:x1] = part
    return canvas


def resample(
    image: np.ndarray, new_wh: tuple[int, int], window: tuple[int, int, int, int], resize_filter: str
) -> np.ndarray:
    """A window of what Pillow's `resize` makes of the image: antialiased where it shrinks, but for nearest.

    Args:
        image: (H, W, 3) uint8.
        new_wh: (width, height) of the whole resized image.
        window: x1 y1 x2 y2 of the part of it that is made.
        resize_filter: a name of `FILTERS`.

    Returns:
        (y2 - y1, x2 - x1, 3) uint8.
    """
    (height, width), (new_w, new_h), (x1, y1, x2, y2) = image.shape[:2], new_wh, window
    if resize_filter == "nearest":
        columns, rows = _nearest(width, new_w, x1, x2), _nearest(height, new_h, y1, y2)
        if new_h > height:  # columns first where that is less to move
            return image[rows[0] : rows[-1] + 1].take(columns, axis=1).take(rows - rows[0], axis=0)
        return image.take(rows, axis=0).take(columns, axis=1)
    method, reach = FILTERS[resize_filter]
    first_x, last_x, box_x1, box_x2 = _source(width, new_w, x1, x2, reach)
    first_y, last_y, box_y1, box_y2 = _source(height, new_h, y1, y2, reach)
    source = Image.fromarray(np.ascontiguousarray(image[first_y:last_y, first_x:last_x]))
    return np.asarray(source.resize((x2 - x1, y2 - y1), method, box=(box_x1, box_y1, box_x2, box_y2)))


def _nearest(length: int, new_length: int, low: int, high: int) -> np.ndarray:
    """Pixels of an axis that lie under the centres of the resized axis's pixels low to high."""
    return (2 * np.arange(low, high) + 1) * length // (2 * new_length)


def _source(length: int, new_length: int, low: int, high: int, reach: int) -> tuple[int, int, float, float]:
    """Pixels of an axis, from and to, that a filter needs for the resized axis's low to high; and these in them."""
    begin, end = low * length / new_length, high * length / new_length
    margin = reach * max(1.0, length / new_length) + 1
    first, last = max(0, math.floor(begin - margin)), min(length, math.ceil(end + margin))
    return first, last, begin - first, end - first


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Lay (h, w, 3) onto the canvas (H, W, 3); what reaches over its edges is cut."""
    target = canvas[max(top, 0) : max(top + image.shape[0], 0), max(left, 0) : max(left + image.shape[1], 0)]
    target[:] = image[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]


def flip_sample(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and boxes (n, 4), left and right exchanged."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), flipped


def colour_tables(hue: float, saturation: float, value: float) -> np.ndarray:
    """Tables (1, 256, 3) uint8 that shift an 8-bit hue (share of the circle) and scale saturation and value.

    The published arithmetic: levels as shares of 255, once round the circle or up to 1, cut to whole levels.
    """
    share = np.arange(256)[:, None] / 255 * (1, saturation, value) + (hue, 0, 0)
    share[:, 0] += (share[:, 0] < 0).astype(float) - (share[:, 0] > 1)
    return (np.clip(share, 0, 1) * 255).astype(np.uint8)[None]


def distort_colour(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB with hue, saturation and value changed by `colour_tables`."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    return cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2RGB_FULL)


def mosaic(samples: list[Sample], centre_xy: tuple[int, int]) -> Sample:
    """Join four images, unscaled, around a point of a grey 768x768 canvas, as published; what does not fit is cut.

    Args:
        samples: above left of the point, above right, below left and below right of it.
        centre_xy: the point in pixels of the canvas.

    Returns:
        The canvas and the boxes in it, clipped, those of no area too: the crop that follows drops them.
    """
    cx, cy = centre_xy
    canvas = np.full((_MOSAIC_SIDE, _MOSAIC_SIDE, 3), GREY, np.uint8)
    laid = []
    for number, (image, boxes, _) in enumerate(samples):
        left = cx if number % 2 else cx - image.shape[1]
        top = cy if number > 1 else cy - image.shape[0]
        paste(canvas, image, left, top)
        laid.append(np.clip(boxes + np.array([left, top] * 2, np.float32), 0, _MOSAIC_SIDE))
    return canvas, np.concatenate(laid), np.concatenate([classes for _, _, classes in samples])


def mix(first: Sample, second: Sample, share: float) -> Sample:
    """The first image at `share`, the second at the rest (https://arxiv.org/abs/1710.09412); boxes of both."""
    image = cv2.addWeighted(first[0], share, second[0], 1 - share, 0)
    return image, np.concatenate([first[1], second[1]]), np.concatenate([first[2], second[2]])
