"""Pictures and boxes to the network's input: random crop, scale, flip and colour for training, a plain
resize for evaluation. `src/perspective.py` has the other recipe for training.

Boxes are (n, 4) float32 x1 y1 x2 y2 in pixels. Everything random comes from the generator that is passed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from PIL import Image

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # picture (H, W, 3) uint8, boxes (n, 4), classes (n,)

GREY = 128  # of the padding around a picture that does not fill the input
_TRIALS = 10  # draws of a crop until an object stays in it


@dataclass(frozen=True)
class ResizeGeometry:
    """Map between picture and network input: input = picture * scale + pad, in pixels."""

    scale_x: float
    scale_y: float
    pad_x: float = 0.0
    pad_y: float = 0.0

    def forward(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the picture in the network's input."""
        return (boxes * self._scale + self._pad).astype(np.float32)

    def inverse(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) of the network's input in the picture."""
        return ((boxes - self._pad) / self._scale).astype(np.float32)

    @property
    def _scale(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y] * 2)

    @property
    def _pad(self) -> np.ndarray:
        return np.array([self.pad_x, self.pad_y] * 2)


def stretch_for_eval(image: np.ndarray, input_hw: tuple[int, int]) -> tuple[np.ndarray, ResizeGeometry]:
    """The picture (H, W, 3) uint8 stretched to the input by Pillow's antialiased bicubic filter."""
    height, width = image.shape[:2]
    return _resize_bicubic(image, input_hw[1], input_hw[0]), stretch_geometry(width, height, input_hw)


def stretch_geometry(width: int, height: int, input_hw: tuple[int, int]) -> ResizeGeometry:
    """How `stretch_for_eval` maps a picture of that size."""
    return ResizeGeometry(input_hw[1] / width, input_hw[0] / height)


def letterbox(
    image: np.ndarray, input_hw: tuple[int, int], enlarge: bool = True
) -> tuple[np.ndarray, ResizeGeometry]:
    """The picture in the middle of the input at its own aspect ratio, with grey borders.

    Args:
        image: (H, W, 3) uint8.
        input_hw: (height, width) of the input.
        enlarge: also pictures smaller than the input are made to fill it.
    """
    height, width = image.shape[:2]
    geometry = letterbox_geometry(width, height, input_hw, enlarge)
    new_w, new_h = round(width * geometry.scale_x), round(height * geometry.scale_y)
    left, top = int(geometry.pad_x), int(geometry.pad_y)
    canvas = np.full((*input_hw, 3), GREY, np.uint8)
    canvas[top : top + new_h, left : left + new_w] = _resize_bicubic(image, new_w, new_h)
    return canvas, geometry


def letterbox_geometry(
    width: int, height: int, input_hw: tuple[int, int], enlarge: bool = True
) -> ResizeGeometry:
    """How `letterbox` maps a picture of that size."""
    ratio = min(input_hw[0] / height, input_hw[1] / width)
    if not enlarge:
        ratio = min(ratio, 1.0)
    new_w, new_h = max(1, round(width * ratio)), max(1, round(height * ratio))
    left, top = (input_hw[1] - new_w) // 2, (input_hw[0] - new_h) // 2
    return ResizeGeometry(new_w / width, new_h / height, left, top)


def eval_resize(keep_aspect: bool, enlarge: bool) -> Callable:
    """`letterbox` or `stretch_for_eval`, as a function of picture and input_hw; `enlarge` is letterbox's."""
    return partial(letterbox, enlarge=enlarge) if keep_aspect else stretch_for_eval


def _resize_bicubic(image: np.ndarray, width: int, height: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class TrainAugment:
    """Random crop, scale, aspect ratio, flip and colour of the published recipe.

    Attributes:
        jitter: the aspect ratio changes by a factor in (1 - jitter) / (1 + jitter) and its inverse.
        hue: largest shift of the hue, share of the circle.
        saturation: largest factor of the saturation, up or down.
        value: largest factor of the brightness, up or down.
        flip: probability of a left-right flip.
        each_multiscale: scale the picture by 0.25 to 2 times the input; otherwise it fills the input.
        mosaic: probability that the loader gives four pictures, which are joined (`mosaic`).
        mixup: probability that the loader blends two results (`mix`).
    """

    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    value: float = 1.5
    flip: float = 0.5
    each_multiscale: bool = True
    mosaic: float = 0.0
    mixup: float = 0.0

    def __call__(
        self,
        rng: np.random.Generator,
        image: np.ndarray,
        boxes: np.ndarray,
        classes: np.ndarray,
        input_hw: tuple[int, int],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One picture (H, W, 3) uint8 with its boxes (n, 4) and classes (n,) in the input.

        Boxes whose centre leaves the input are dropped, the others are clipped to it.
        """
        geometry, new_wh, boxes_in, kept = self._choose_crop(rng, image.shape, boxes, input_hw)
        canvas = place(image, geometry, new_wh, input_hw)
        if rng.random() < self.flip:
            canvas, boxes_in = flip_sample(canvas, boxes_in)
        canvas = distort_colour(canvas, *self._draw_colour(rng))
        return canvas, boxes_in, classes[kept]

    def join(self, rng: np.random.Generator, samples: list[Sample], input_hw: tuple[int, int]) -> Sample:
        """One picture in the input, or a mosaic of four."""
        parts = [self(rng, *sample, input_hw) for sample in samples]
        return parts[0] if len(parts) == 1 else mosaic(rng, parts, input_hw)

    def finish(self, rng: np.random.Generator, sample: Sample) -> Sample:
        """What comes after a blend: nothing, here."""
        return sample

    def _choose_crop(self, rng, image_shape, boxes, input_hw):
        """Where the picture goes; drawn again while no object stays, at last the whole picture."""
        height, width = image_shape[:2]
        for _ in range(_TRIALS):
            new_w, new_h, dx, dy = self._draw_crop(rng, input_hw)
            geometry = ResizeGeometry(new_w / width, new_h / height, dx, dy)
            boxes_in, kept = clip_boxes(geometry.forward(boxes), input_hw)
            if len(boxes) == 0 or len(boxes_in):
                return geometry, (new_w, new_h), boxes_in, kept
        geometry = ResizeGeometry(input_hw[1] / width, input_hw[0] / height)
        boxes_in, kept = clip_boxes(geometry.forward(boxes), input_hw)
        return geometry, (input_hw[1], input_hw[0]), boxes_in, kept

    def _draw_crop(self, rng, input_hw) -> tuple[int, int, int, int]:
        """Size of the whole resized picture and the place of its corner, which may be outside the input."""
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


def clip_boxes(boxes: np.ndarray, input_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) whose centre is in the input and that keep a pixel of it, clipped; and their mask (n,)."""
    limit = np.array([input_hw[1], input_hw[0]], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    clipped = np.clip(boxes, 0, np.tile(limit, 2))
    kept = ((centres >= 0) & (centres < limit) & (clipped[:, 2:] - clipped[:, :2] > 1)).all(axis=1)
    return clipped[kept].astype(np.float32), kept


def place(
    image: np.ndarray, geometry: ResizeGeometry, new_wh: tuple[int, int], input_hw: tuple[int, int]
) -> np.ndarray:
    """Resize the picture to `new_wh` and lay it on a grey input at the geometry's pad; the rest is cut.

    Only the visible part is computed where the picture grows; where it shrinks, pixels are averaged, so
    that small objects do not vanish between the samples.
    """
    input_h, input_w = input_hw
    new_w, new_h = new_wh
    dx, dy = int(geometry.pad_x), int(geometry.pad_y)
    if new_w > image.shape[1] and new_h > image.shape[0]:
        # Pixel centres: input + 0.5 = (picture + 0.5) * scale + pad.
        matrix = np.array(
            [
                [geometry.scale_x, 0, dx + 0.5 * geometry.scale_x - 0.5],
                [0, geometry.scale_y, dy + 0.5 * geometry.scale_y - 0.5],
            ]
        )
        x0, y0, x1, y1 = max(dx, 0), max(dy, 0), min(dx + new_w, input_w), min(dy + new_h, input_h)
        matrix[:, 2] -= (x0, y0)
        # Replicated borders, as cv2.resize does; the grey is laid around, not blended in.
        part = cv2.warpAffine(
            image, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        if part.shape[:2] == (input_h, input_w):
            return part
        canvas = np.full((input_h, input_w, 3), GREY, np.uint8)
        canvas[y0:y1, x0:x1] = part
        return canvas
    # Each axis by its own filter: one may shrink while the other grows.
    shrunk_wh = min(new_w, image.shape[1]), min(new_h, image.shape[0])
    resized = _resize(_resize(image, shrunk_wh, cv2.INTER_AREA), (new_w, new_h), cv2.INTER_LINEAR)
    canvas = np.full((input_h, input_w, 3), GREY, np.uint8)
    paste(canvas, resized, dx, dy)
    return canvas


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Lay (h, w, 3) onto the canvas (H, W, 3); what reaches over its edges is cut."""
    target = canvas[max(top, 0) : max(top + image.shape[0], 0), max(left, 0) : max(left + image.shape[1], 0)]
    target[:] = image[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]


def _resize(image: np.ndarray, size_wh: tuple[int, int], interpolation: int) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size_wh:
        return image
    return cv2.resize(image, size_wh, interpolation=interpolation)


def flip_sample(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Picture (H, W, 3) and boxes (n, 4), left and right exchanged."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), flipped


def distort_colour(image: np.ndarray, hue: float, saturation: float, value: float) -> np.ndarray:
    """Shift the hue (share of the circle), scale saturation and value, of (H, W, 3) uint8 RGB, by tables."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    levels = np.arange(256)
    tables = np.stack(
        [
            (levels + round(hue * 255)) % 256,
            np.minimum(levels * saturation, 255),
            np.minimum(levels * value, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB_FULL)


def mosaic(
    rng: np.random.Generator,
    samples: list[Sample],
    input_hw: tuple[int, int],
) -> Sample:
    """Join four augmented inputs at a random centre; each gives one corner.

    Args:
        rng: draws the centre, in the middle half of the input.
        samples: four of (canvas (H, W, 3), boxes (n, 4), classes (n,)), all of size `input_hw`.
        input_hw: (height, width).
    """
    input_h, input_w = input_hw
    cx = int(rng.uniform(0.25, 0.75) * input_w)
    cy = int(rng.uniform(0.25, 0.75) * input_h)
    corners = ((0, 0, cx, cy), (cx, 0, input_w, cy), (0, cy, cx, input_h), (cx, cy, input_w, input_h))
    canvas = np.empty((input_h, input_w, 3), np.uint8)
    all_boxes, all_classes = [], []
    for (image, boxes, classes), (x0, y0, x1, y1) in zip(samples, corners):
        canvas[y0:y1, x0:x1] = image[y0:y1, x0:x1]
        offset = np.array([x0, y0, x0, y0], np.float32)
        inside, kept = clip_boxes(boxes - offset, (y1 - y0, x1 - x0))
        all_boxes.append(inside + offset)
        all_classes.append(classes[kept])
    return canvas, np.concatenate(all_boxes), np.concatenate(all_classes)


def mix(first: Sample, second: Sample, share: float) -> Sample:
    """The first picture at `share`, the second at the rest (https://arxiv.org/abs/1710.09412); boxes of both."""
    image = cv2.addWeighted(first[0], share, second[0], 1 - share, 0)
    return image, np.concatenate([first[1], second[1]]), np.concatenate([first[2], second[2]])
