"""A data set looked through before hours are spent on it: every problem named and counted, and its statistics.

Training stops at the first thing that it cannot use. Here the same checks (`src.yolo_dataset`, `src.imaging.image_io`)
are asked of every entry and every image, and the answers are collected.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..imaging.image_io import is_image, read_rgb, read_size
from ..layers.anchors import SECOND_PASS_OVERLAP, fit_of
from ..transforms import letterbox_geometry, stretch_geometry
from ..yolo_dataset import annotated_box, check_image
from .findings import Findings
from .formats.yolo_labels import annotations_of

LOW_RECALL = 0.8  # share of the boxes that an anchor fits, below which anchors of one's own are advised
_CHUNK = 1 << 20
_HUNDREDTHS = (5, 25, 50, 75, 95)


_FAULTS = {
    "not finite": "box_not_finite",
    "without area": "box_without_area",
    "outside its image": "box_outside",
}


@dataclass
class CheckedImage:
    """A usable entry of `images`; boxes are rows x1 y1 x2 y2 class in pixels of the image."""

    id: int
    path: Path
    width: int
    height: int
    boxes: list[tuple] = field(default_factory=list)
    ignored: int = 0
    content: str = ""  # of those alone whose length (or pixels) another image may share


@dataclass
class CheckedSet:
    """The usable part of an annotation file."""

    split: str
    folder: Path
    ann_file: Path
    labels: tuple[str, ...]
    images: list[CheckedImage]


def check_set(
    split: str,
    folder: Path,
    ann_file: Path,
    labels: Iterable[str],
    findings: Findings,
    crowd_targets: bool = False,
) -> CheckedSet:
    """Look through an annotation file; what is not usable is counted and left out. Crowds are objects by option.

    Raises:
        UserError: the file cannot be read at all (no JSON, not COCO's format, no images).
    """
    labels = tuple(labels)
    document = annotations_of(folder, ann_file, labels)
    class_of = _classes(document["categories"], labels, ann_file, findings)
    entries, images = {}, {}
    names: set = set()
    for number, entry in enumerate(document["images"]):
        try:
            image_id = check_image(entry, f"{ann_file}: images[{number}]")
        except UserError as error:
            findings.add("image_entry", str(error))
            continue
        if image_id in entries:
            findings.add("duplicate_image_id", f"{ann_file}: image id {image_id} ({entry['file_name']})")
            continue
        path = folder / entry["file_name"]
        if path in names:
            findings.add(
                "duplicate_file_name", f"{ann_file}: {entry['file_name']}, the second time as {image_id}"
            )
        names.add(path)
        entries[image_id] = entry
        images[image_id] = CheckedImage(image_id, path, entry["width"], entry["height"])
    _read_boxes(document["annotations"], entries, images, class_of, ann_file, findings, crowd_targets)
    ordered = [images[image_id] for image_id in sorted(images)]
    return CheckedSet(split, folder, ann_file, labels, ordered)


def _classes(categories: list[dict], labels: tuple[str, ...], ann_file: Path, findings: Findings) -> dict:
    """Class index of each category id; -1 for one that is not in labels."""
    class_of, names = {}, set()
    for category in categories:
        name, number = category.get("name"), category.get("id")
        is_number = isinstance(number, int) and not isinstance(number, bool)
        if not isinstance(name, str) or not is_number or number in class_of or name in names:
            findings.add("category_entry", f"{ann_file}: name {name!r:.80}, id {number!r:.80}")
            continue
        names.add(name)
        class_of[number] = labels.index(name) if name in labels else -1
        if name not in labels:
            findings.add("unknown_label", f"{ann_file}: {name!r:.80}")
    return class_of


def _read_boxes(annotations, entries, images, class_of, ann_file, findings, crowd_targets) -> None:
    """Put each usable box to its image."""
    ids: set = set()
    for number, annotation in enumerate(annotations):
        where = f"{ann_file}: annotations[{number}]"
        own_id = annotation.get("id")
        if isinstance(own_id, int | str):
            if own_id in ids:
                findings.add("duplicate_annotation_id", f"{where}: id {own_id!r:.80}")
            ids.add(own_id)
        entry = _found(entries, annotation.get("image_id"))
        if entry is None:
            findings.add("unknown_image", f"{where}: image_id {annotation.get('image_id')!r:.80}")
            continue
        label = _found(class_of, annotation.get("category_id"))
        if label is None:
            findings.add("unknown_category", f"{where}: category_id {annotation.get('category_id')!r:.80}")
            continue
        try:
            box, fault, is_ignored = annotated_box(annotation, entry, where, crowd_targets)
        except UserError as error:
            findings.add("annotation_entry", str(error))
            continue
        if fault:
            shown = f"{where} of {entry['file_name']}: {annotation['bbox']!r:.120}"
            findings.add(_FAULTS[fault], shown)
            continue
        if _is_cut(annotation["bbox"], entry):
            shown = f"{entry['width']}x{entry['height']} {entry['file_name']}: {annotation['bbox']!r:.120}"
            findings.add("box_cut", f"{where} of {shown}")
        image = images[entry["id"]]
        if is_ignored:
            image.ignored += 1
        else:
            image.boxes.append((*box, label))


def _found(table: dict, key):
    """The entry of a key; None where it is missing or no plain value."""
    return table.get(key) if isinstance(key, int | float) else None


def _is_cut(bbox: list, image: dict, slack: float = 1.0) -> bool:
    """Whether a box leaves its image by more than rounding explains."""
    x, y, w, h = map(float, bbox)
    return min(x, y) < -slack or x + w > image["width"] + slack or y + h > image["height"] + slack


# -------------------------------------------------------------------- images


def check_images(
    sets: list[CheckedSet],
    findings: Findings,
    *,
    decode: bool,
    workers: int,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Open every image by several threads: its size and, by `decode`, all its pixels; then compare contents.

    Without `decode`, images are the same where their files are, byte for byte; with it, where their pixels are
    (a copy in another lossless format is found too).

    Args:
        sets: their images get a `content` to compare by.
        findings: missing, unlisted, unreadable, differing and repeated images are added.
        decode: decode the pixels as training does.
        workers: threads.
        progress: called after each image.
    """
    images = {image.path: image for checked in sets for image in checked.images}
    _find_unlisted(sets, set(images), findings)
    queue = iter(images.values())
    lengths: dict[int, list[CheckedImage]] = {}
    with ThreadPoolExecutor(workers) as pool:
        while part := list(islice(queue, 64 * workers)):  # bounds what waits
            for image, (kind, example, length, content) in zip(
                part, pool.map(lambda item: _look_at(item, decode), part)
            ):
                progress()
                image.content = content
                if kind:
                    findings.add(kind, example)
                if length is not None:
                    lengths.setdefault(length, []).append(image)
        if not decode:
            alike = [image for group in lengths.values() if len(group) > 1 for image in group]
            for image, content in zip(alike, pool.map(_file_digest, alike)):
                image.content = content
    for checked in sets:  # a path that two sets or entries share was opened once
        for image in checked.images:
            image.content = images[image.path].content
    _compare(sets, findings)


def _look_at(image: CheckedImage, decode: bool) -> tuple[str, str, int | None, str]:
    """(kind of problem or "", its example, length of the file or None, digest of the pixels or "")."""
    path = image.path
    if not path.is_file():
        return "missing_file", str(path), None, ""
    length = path.stat().st_size
    try:
        width, height = read_size(path)
        if (width, height) != (image.width, image.height):
            example = f"{path}: it is {width}x{height}, annotated {image.width}x{image.height}"
            return "size_differs", example, length, ""
        if not decode:
            return "", "", length, ""
        pixels = read_rgb(path)
    except UserError as error:
        return "unreadable_picture", str(error), length, ""
    except Exception as error:  # a decoder that fails in a way of its own must not hide the other images
        return "unreadable_picture", f"{path}: {type(error).__name__}: {error}", length, ""
    return "", "", length, f"{pixels.shape}{hashlib.blake2b(pixels, digest_size=16).hexdigest()}"


def _file_digest(image: CheckedImage) -> str:
    """Digest of a file's bytes; "" where it cannot be read (which is counted elsewhere)."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with image.path.open("rb") as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return ""
    return digest.hexdigest()


def _find_unlisted(sets: list[CheckedSet], listed: set[Path], findings: Findings) -> None:
    """Images in the sets' folders that no annotation file lists."""
    for folder in sorted({checked.folder for checked in sets}):
        for place, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = Path(place, name)
                if is_image(path) and path not in listed:
                    findings.add("unlisted_file", str(path))


def _compare(sets: list[CheckedSet], findings: Findings) -> None:
    """The same image twice in a set, or in train and in another set."""
    trained: dict = {}
    for checked in sets:
        seen: dict = {}
        for image in checked.images:
            for key in {image.path.resolve(), image.content} - {""}:
                if checked.split != "train" and key in trained:
                    findings.add("train_in_val", f"{image.path} is {trained[key]}")
                    break
            if image.content:
                first = seen.setdefault(image.content, image.path)
                if first != image.path:
                    findings.add("duplicate_picture", f"{image.path} is {first}")
        if checked.split == "train":
            for image in checked.images:
                for key in {image.path.resolve(), image.content} - {""}:
                    trained.setdefault(key, image.path)


# -------------------------------------------------------------------- boxes


def check_boxes(
    checked: CheckedSet,
    findings: Findings,
    *,
    input_hw: tuple[int, int],
    letterbox: bool,
    max_box: int,
    anchors: np.ndarray,
    tiny: float,
) -> dict:
    """Look at a set's boxes as the network will see them; returns the statistics.

    Args:
        checked: the set.
        findings: tiny and doubled boxes, crowded images, empty classes, anchors that do not fit are added.
        input_hw: (height, width) of the network's input, to which images are resized as in evaluation.
        letterbox: keep the aspect ratio.
        max_box: objects of an image that training takes.
        anchors: (9, 2) width and height in pixels of the input.
        tiny: shorter side in pixels of the input below which a box is counted as tiny.
    """
    geometry_of = letterbox_geometry if letterbox else stretch_geometry
    shapes = [np.empty((0, 2), np.float32)]
    objects = Counter(label for image in checked.images for *_, label in image.boxes)
    for image in checked.images:
        if len(image.boxes) > max_box:
            findings.add("crowded_picture", f"{image.path}: {len(image.boxes)} objects, max_box is {max_box}")
        if not image.boxes:
            continue
        table = np.array(image.boxes, np.float32)
        boxes = geometry_of(image.width, image.height, input_hw).forward(table[:, :4])
        sides = boxes[:, 2:] - boxes[:, :2]
        shapes.append(sides)
        for row in np.flatnonzero(sides.min(axis=1) < tiny):
            shown = "x".join(f"{side:.1f}" for side in sides[row])
            findings.add("box_tiny", f"{image.path}: {image.boxes[row][:4]} is {shown} pixels there")
        for box, count in Counter(image.boxes).items():
            for _ in range(count - 1):
                findings.add("box_twice", f"{image.path}: {box[:4]}")
    for number, name in enumerate(checked.labels):
        if not objects[number]:
            findings.add("class_without_objects", f"{checked.split}: {name}")
    sides = np.concatenate(shapes)
    recall = None
    if not len(sides):
        findings.add("no_objects", f"{checked.split}: {checked.ann_file}")
    else:
        recall = fit_of(sides, anchors).recall
        if recall < LOW_RECALL:
            findings.add(
                "anchors_misfit",
                f"{checked.split}: {recall:.1%} of the boxes have an anchor of IoU over {SECOND_PASS_OVERLAP}",
            )
    return _statistics(checked, objects, sides, recall)


def _statistics(checked: CheckedSet, objects: Counter, sides: np.ndarray, recall: float | None) -> dict:
    crowds = np.array([len(image.boxes) for image in checked.images])
    square = np.sqrt(sides.prod(axis=1))  # side of a square of the same area
    return {
        "annotations": str(checked.ann_file),
        "folder": str(checked.folder),
        "pictures": len(checked.images),
        "pictures_without_objects": int((crowds == 0).sum()),
        "objects": len(sides),
        "ignored_regions": sum(image.ignored for image in checked.images),
        "objects_by_class": {name: objects[number] for number, name in enumerate(checked.labels)},
        "objects_a_picture": _quantiles(crowds),
        "object_side_in_input": _quantiles(square),
        "anchor_recall": recall,
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Least, quantiles in percent, most and mean; nothing of nothing."""
    if not len(values):
        return {}
    found = {f"{part}%": float(np.percentile(values, part)) for part in _HUNDREDTHS}
    return {"min": float(values.min()), **found, "max": float(values.max()), "mean": float(values.mean())}
