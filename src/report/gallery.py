"""The best, the worst and the most crowded images of an evaluation, ground truth beside detections.

An image is inlined once, as a small JPEG; boxes are drawn over it as SVG paths, one for each class, so that the
page can show one class alone. The number of images is bounded, whatever the size of the set.
"""

import base64
from html import escape

import cv2
import numpy as np

from ..evaluation.analysis import PairedImage
from ..imaging.image_io import read_rgb

EACH = 6  # images of each kind
MOST_FOR_CLASSES = 12  # further ones, for classes that the kinds do not show
_SIDE, _QUALITY = 480, 78  # longest side in pixels and JPEG quality of an inlined image


def choose_images(images: list[PairedImage]) -> list[tuple[PairedImage, tuple[str, ...]]]:
    """The images to show and why: `best` and `worst` F1, most `crowded`, most of a `class` shown by no other.

    Of equal F1 the image with more objects is better, the one with more mistakes worse. Images without
    objects and detections are not shown.
    """
    with_objects = [image for image in images if len(image.record.boxes)]
    kinds = {
        "best": sorted(with_objects, key=lambda each: (-each.f1, -len(each.record.boxes))),
        "worst": sorted(
            (each for each in images if each.mistakes), key=lambda each: (each.f1, -each.mistakes)
        ),
        "crowded": sorted(with_objects, key=lambda each: -len(each.record.boxes)),
    }
    chosen: dict[int, list[str]] = {}
    by_id = {image.record.id: image for image in images}
    for kind, ordered in kinds.items():
        for image in ordered[:EACH]:
            chosen.setdefault(image.record.id, []).append(kind)
    shown = {label for number in chosen for label in by_id[number].record.classes.tolist()}
    most: dict[int, tuple[int, int]] = {}
    for image in with_objects:
        for label, count in zip(*np.unique(image.record.classes, return_counts=True)):
            if label not in shown:
                most[int(label)] = max(most.get(int(label), (0, 0)), (int(count), image.record.id))
    for _, number in sorted(most.values(), reverse=True)[:MOST_FOR_CLASSES]:
        chosen.setdefault(number, []).append("class")
    return [(by_id[number], tuple(kinds)) for number, kinds in chosen.items()]


def gallery(images: list[PairedImage], class_names: tuple[str, ...]) -> str:
    """Figures of the chosen images as HTML text.

    Raises:
        UserError: an image cannot be read.
    """
    figures = [
        _figure(number, image, kinds, class_names)
        for number, (image, kinds) in enumerate(choose_images(images))
    ]
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else '<p class="none">no images</p>'


def _figure(number: int, image: PairedImage, kinds: tuple[str, ...], class_names) -> str:
    record = image.record
    width, height = record.width, record.height
    box = f'viewBox="0 0 {width} {height}" role="img"'
    name = f"tile{number}"
    labels = sorted({*record.classes.tolist(), *image.classes.tolist()})
    counts = "".join(
        f'<span data-class="{label}"><i class="c{label}"></i>{escape(class_names[label])} '
        f"{int((image.classes[image.right] == label).sum())} of {int((record.classes == label).sum())}, "
        f"{int(((image.classes == label) & ~image.right & (image.object_of != -2)).sum())} wrong</span>"
        for label in labels
    )
    f1 = f"F1 {image.f1:.2f}" if image.f1 >= 0 else "no objects"
    return (
        f'<figure data-classes="{" ".join(map(str, labels))}" data-kinds="{" ".join(kinds)}"><div class="pair">'
        f'<div><b>ground truth: {len(record.boxes)}</b><svg {box} aria-label="ground truth">'
        f'<image id="{name}" width="{width}" height="{height}" href="{jpeg_uri(read_rgb(record.path))}"/>'
        f"{_paths(record.boxes, record.classes, image.found)}</svg></div>"
        f'<div><b>detections: {len(image.boxes)}</b><svg {box} aria-label="detections">'
        f'<use href="#{name}"/>{_paths(image.boxes, image.classes, image.right)}</svg></div></div>'
        f"<figcaption><b>{escape(record.path.name)}</b> {f1}; {escape(', '.join(kinds))}"
        f'<span class="legend">{counts}</span></figcaption></figure>'
    )


def _paths(boxes: np.ndarray, classes: np.ndarray, right: np.ndarray) -> str:
    """The boxes of each class as a path; those that are not right are dashed."""
    paths = []
    for label in np.unique(classes).tolist():
        for kind, style in ((True, ""), (False, " wrong")):
            corners = boxes[(classes == label) & (right == kind)]
            if len(corners):
                outline = "".join(
                    f"M{x1:.1f} {y1:.1f}H{x2:.1f}V{y2:.1f}H{x1:.1f}Z" for x1, y1, x2, y2 in corners.tolist()
                )
                paths.append(f'<path class="box c{label}{style}" data-class="{label}" d="{outline}"/>')
    return "".join(paths)


def jpeg_uri(image: np.ndarray) -> str:
    """A (H, W, 3) uint8 RGB image, made small, as a data URI of a JPEG."""
    shrink = _SIDE / max(image.shape[:2])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    )
    if not ok:
        raise ValueError("an image could not be encoded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
