"""Images of boxes that stay readable on crowded tiles."""

import colorsys

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MOST_LABELS = 40  # of a class in an image; a class with more boxes is named in the legend alone
_SMALL = 0.02  # share of the image below which a box is kept clear of other boxes' labels


def class_colour(index: int) -> tuple[int, int, int]:
    """A bright RGB colour of a class, the same in every image; neighbours differ by the golden angle."""
    hue = (0.58 + index * 0.618034) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if index % 2 else 0.6, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, classes: np.ndarray, class_names, scores: np.ndarray | None = None
) -> np.ndarray:
    """A copy of the image with boxes, and labels where they do not cover other boxes.

    A class with many boxes gets no labels. Classes with a box that has no label stand, with colour and
    count, in a legend in the emptiest corner.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) x1 y1 x2 y2 in its pixels.
        classes: (n,) indices into `class_names`.
        class_names: names of the classes.
        scores: (n,), written beside the names; the best are labelled first.
    """
    canvas = np.ascontiguousarray(image).copy()
    classes = np.asarray(classes, int)
    corners = np.clip(np.round(np.asarray(boxes, float).reshape(-1, 4)), -(2**15), 2**15).astype(int)
    large = max(image.shape[:2]) >= 1200
    taken = np.zeros(image.shape[:2], np.uint8)
    for (x1, y1, x2, y2), label in zip(corners.tolist(), classes.tolist()):
        thick = min(x2 - x1, y2 - y1) >= 60 and (large or len(classes) <= _MOST_LABELS)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(label), 2 if thick else 1)
        small = (x2 - x1) * (y2 - y1) < _SMALL * taken.size
        cv2.rectangle(taken, (x1, y1), (x2, y2), 1, cv2.FILLED if small else 1)
    size = 0.6 if large else 0.35
    unlabelled = set()
    crowded = np.bincount(classes, minlength=1) > _MOST_LABELS
    for number in range(len(classes)) if scores is None else np.argsort(-np.asarray(scores), kind="stable"):
        label = int(classes[number])
        text = class_names[label] + (f" {scores[number]:.2f}" if scores is not None else "")
        box = corners[number].tolist()
        if crowded[label] or not _label(canvas, taken, box, text, class_colour(label), size):
            unlabelled.add(label)
    if unlabelled:
        _legend(canvas, taken, classes[np.isin(classes, list(unlabelled))], class_names, size)
    return canvas


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> np.ndarray:
    """Two images of one size beside each other, each under its title."""
    panels = []
    for image, title in zip((left, right), titles):
        bar = np.full((24, image.shape[1], 3), 32, np.uint8)
        cv2.putText(bar, title, (6, 17), _FONT, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
        panels.append(np.vstack([bar, image]))
    gap = np.full((panels[0].shape[0], 6, 3), 32, np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def _label(canvas, taken, box, text, colour, size: float) -> bool:
    """Write above, below or beside the box, or in its corner, where nothing is yet; whether there was room."""
    (width, height), base = cv2.getTextSize(text, _FONT, size, 1)
    height, width = height + base + 1, width + 2
    x1, y1, x2, y2 = box
    places = [(x1, y1 - height - 1), (x1, y2 + 1), (x2 + 1, y1), (x1 - width - 1, y1)]
    if width < x2 - x1 - 2 and 3 * height < y2 - y1:  # room within, with most of the object still to be seen
        places.append((x1 + 1, y1 + 1))
    for left, top in places:
        area = (slice(top, top + height + 1), slice(left, left + width + 1))
        if left < 0 or top < 0 or left + width >= canvas.shape[1] or top + height >= canvas.shape[0]:
            continue
        if not taken[area].any():
            canvas[area] = colour
            _write(canvas, text, (left + 1, top + height - base), size, colour)
            taken[area] = 1
            return True
    return False


def _write(canvas, text, origin, size: float, background) -> None:
    """Black or white text, whichever is seen on its background."""
    red, green, blue = background
    ink = (0, 0, 0) if 0.3 * red + 0.59 * green + 0.11 * blue > 110 else (255, 255, 255)
    cv2.putText(canvas, text, origin, _FONT, size, ink, 1, cv2.LINE_AA)


def _legend(canvas, taken, classes, class_names, size: float) -> None:
    """Names, colours and counts of classes, in the corner with the fewest boxes."""
    labels, counts = np.unique(classes, return_counts=True)
    lines = [f"{class_names[label]}: {count}" for label, count in zip(labels, counts)]
    sizes = [cv2.getTextSize(line, _FONT, size, 1)[0] for line in lines]
    step = max(height for _, height in sizes) + 7
    width, height = max(width for width, _ in sizes) + step + 6, step * len(lines) + 4
    right, bottom = max(canvas.shape[1] - width, 0), max(canvas.shape[0] - height, 0)
    places = [(x, y) for y in (0, bottom) for x in (0, right)]
    x, y = min(places, key=lambda place: int(taken[place[1] :, place[0] :][:height, :width].sum()))
    canvas[y : y + height, x : x + width] //= 4
    for row, (label, line) in enumerate(zip(labels, lines)):
        top = y + 2 + step * row
        colour = class_colour(int(label))
        cv2.rectangle(canvas, (x + 4, top + 3), (x + step - 2, top + step - 3), colour, cv2.FILLED)
        cv2.putText(
            canvas, line, (x + step + 3, top + step - 5), _FONT, size, (255, 255, 255), 1, cv2.LINE_AA
        )
