"""How an image becomes the network's input in evaluation, by the options; MindYOLO's letterbox among the ways."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from ..config import Config
from ..transforms import ResizeGeometry, letterbox, stretch_for_eval

Resize = Callable[[np.ndarray, tuple[int, int]], tuple[np.ndarray, ResizeGeometry]]


def eval_resize(config: Config) -> Resize:
    """From an image (H, W, 3) uint8 and input (height, width) to the input and how boxes map."""
    if not config.letterbox:
        return stretch_for_eval
    if config.letterbox_style == "mindyolo":
        return partial(mindyolo_letterbox, enlarge=config.letterbox_enlarge, grey=config.padding_grey)
    return partial(letterbox, enlarge=config.letterbox_enlarge, grey=config.padding_grey)


def mindyolo_letterbox(
    image: np.ndarray, input_hw: tuple[int, int], enlarge: bool = True, grey: int = 114
) -> tuple[np.ndarray, ResizeGeometry]:
    """The image in the middle of the input as MindYOLO's evaluation has it.

    The longer side fills the input, the other one is rounded down; OpenCV's area filter shrinks, its linear filter
    enlarges. Boxes go back as there: by the factor of the height on both axes and by half the free space, though
    pixels lie on whole ones. That is off by up to half a pixel of the input from the border, and by up to a pixel
    of the image at its far side; `letterbox` is exact.

    Args:
        image: (H, W, 3) uint8.
        input_hw: (height, width) of the input.
        enlarge: also images smaller than the input are made to fill it, as there.
        grey: level of the borders.
    """
    height, width = image.shape[:2]
    ratio = min(input_hw[0] / height, input_hw[1] / width)
    if not enlarge:
        ratio = min(ratio, 1.0)
    if ratio != 1:
        size = max(1, int(width * ratio)), max(1, int(height * ratio))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR)
    free_h, free_w = input_hw[0] - image.shape[0], input_hw[1] - image.shape[1]
    canvas = np.full((*input_hw, 3), grey, np.uint8)
    canvas[free_h // 2 :, free_w // 2 :][: image.shape[0], : image.shape[1]] = image
    scale = image.shape[0] / height
    return canvas, ResizeGeometry(scale, scale, free_w / 2, free_h / 2)
