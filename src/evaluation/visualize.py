"""Pictures of boxes that stay readable on crowded tiles."""

import colorsys

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CROWDED = 60  # above this many boxes, labels go and a legend of colours stays


def class_colour(index: int) -> tuple[int, int, int]:
    """A bright RGB colour of a class, the same in every picture; neighbours differ by the golden angle."""
    hue = (0.58 + index * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if index % 2 else 0.6, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, class_names, scores: np.ndarray | None = None
) -> np.ndarray:
    """A copy of the picture with boxes, and labels where they do not cover other boxes.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) x1 y1 x2 y2 in its pixels.
        classes: (n,) indices into `class_names`.
        class_names: names of the classes.
        scores: (n,), written beside the names.
    """
    canvas = image.copy()
    thickness = 1 if max(image.shape[:2]) < 1200 else 2
    for box, label in zip(boxes, classes):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(int(label)), thickness, cv2.LINE_AA)
    taken = np.zeros(image.shape[:2], bool)
    if len(boxes) <= _CROWDED:
        for box in boxes:
            x1, y1, x2, y2 = (max(0, int(value)) for value in box)
            taken[y1:y2, x1:x2] = True
    for number, (box, label) in enumerate(zip(boxes, classes)):
        text = class_names[int(label)] + (f" {scores[number]:.2f}" if scores is not None else "")
        _label(canvas, taken, box, text, class_colour(int(label)))
    _legend(canvas, classes, class_names)
    return canvas


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two pictures of one size beside each other, each under its title."""
    panels = []
    for picture, title in zip((left, right), titles):
        bar = np.full((24, picture.shape[1], 3), 32, np.uint8)
        cv2.putText(bar, title, (6, 17), _FONT, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
        panels.append(np.vstack([bar, picture]))
    gap = np.full((panels[0].shape[0], 6, 3), 32, np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def _label(canvas, taken, box, text, colour) -> None:
    """Write above, below or beside the box, where nothing is yet; otherwise leave the label out."""
    (width, height), base = cv2.getTextSize(text, _FONT, 0.35, 1)
    height += base + 1
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    for left, top in ((x1, y1 - height), (x1, y2 + 1), (x2 + 1, y1), (x1 - width - 1, y1)):
        inside = (
            left >= 0 and top >= 0 and left + width <= canvas.shape[1] and top + height <= canvas.shape[0]
        )
        if inside and not taken[top : top + height, left : left + width].any():
            cv2.rectangle(canvas, (left, top), (left + width, top + height), colour, cv2.FILLED)
            cv2.putText(canvas, text, (left, top + height - base), _FONT, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
            taken[top : top + height, left : left + width] = True
            return


def _legend(canvas, classes, class_names) -> None:
    """Names, colours and counts of the classes that are there, in the corner of a crowded picture."""
    labels, counts = np.unique(np.asarray(classes, int), return_counts=True)
    if len(classes) <= _CROWDED:
        return
    for row, (label, count) in enumerate(zip(labels, counts)):
        text = f"{class_names[label]} {count}"
        (width, _), _ = cv2.getTextSize(text, _FONT, 0.4, 1)
        top = 4 + 16 * row
        cv2.rectangle(canvas, (4, top), (10 + width, top + 15), (20, 20, 20), cv2.FILLED)
        cv2.putText(canvas, text, (7, top + 11), _FONT, 0.4, class_colour(int(label)), 1, cv2.LINE_AA)
