"""A COCO annotation file walked once: usable entries, and faults for whoever asks.

Reading for training (`src.yolo_dataset`) stops at a fault, or drops and counts it; checking a set
(`src.datasets.check`) lists them all. Both see the same entries.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .base.errors import UserError, one_line, shown
from .base.text_file import read_text

# Results are tables of numpy integers (image_id int64, category_id int32; a class that the file lacks gets
# an id above its largest), so larger ones are refused here and not cut there.
_ID_LIMIT, _CATEGORY_LIMIT, _SIDE_LIMIT = 2**63, 2**30, 2**31

BOX_FAULTS = {
    "box_not_finite": "not finite",
    "box_without_area": "without area",
    "box_outside": "outside its image",
}


@dataclass(frozen=True)
class Fault:
    """An entry that cannot be used.

    Attributes:
        kind: its name among the `KINDS` of `src.datasets.findings`.
        message: one line that names the file and the entry.
        number: place of the entry in its list.
        entry: the JSON object.
        image: the entry of its image, of a box.
    """

    kind: str
    message: str
    number: int
    entry: dict
    image: dict | None = None


@dataclass(frozen=True)
class Category:
    """A usable category, and its number in `labels`, -1 where it is not among them."""

    id: int
    name: str
    label: int


class Annotation(NamedTuple):
    """A usable annotation: x1 y1 x2 y2 clipped to its image, label of its category, and whether it is ignored."""

    number: int
    entry: dict
    image: dict
    box: tuple[float, float, float, float]
    label: int
    is_ignored: bool


def _without_duplicates(pairs: list[tuple]) -> dict:
    """An object of JSON; of duplicate keys the last would count, unseen."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {shown(next(key for key in found if keys.count(key) > 1))!r}")
    return found


def read_annotations(ann_file: Path) -> dict:
    """The JSON document of a COCO annotation file, its three lists checked.

    Raises:
        UserError: no file, no JSON, a list is missing or there are no images.
    """
    try:
        document = json.loads(read_text(ann_file), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UserError(f"{ann_file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{ann_file}: no valid JSON ({one_line(error, 120)})") from error
    if not isinstance(document, dict):
        raise UserError(f"{ann_file}: not a COCO annotation file: a {type(document).__name__}, not an object")
    document.setdefault("annotations", [])  # a test set has none
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(
                f"{ann_file}: not a COCO annotation file: '{key}' is missing or no list of objects"
            )
    if not document["images"]:
        raise UserError(f"{ann_file}: no images in it; was the data set split correctly?")
    return document


def walk_categories(document: dict, labels: tuple[str, ...], ann_file: Path) -> Iterator[Category | Fault]:
    """The categories of a document, matched with `labels` by name."""
    names, ids = set(), set()
    for number, entry in enumerate(document["categories"]):
        try:
            name = str(_field(entry, "name", f"{ann_file}: categories"))
            where = f"{ann_file}: category {shown(name)}"
            category_id = _field(entry, "id", where)
            if not _is_whole(category_id, _CATEGORY_LIMIT):
                raise UserError(f"{where}: id {shown(repr(category_id))} is no whole number of normal size")
            if name in names or category_id in ids:
                raise UserError(f"{where} (id {category_id}): duplicate name or id")
        except UserError as error:
            yield Fault("category_entry", str(error), number, entry)
            continue
        names.add(name)
        ids.add(category_id)
        yield Category(category_id, name, labels.index(name) if name in labels else -1)


def walk_images(document: dict, ann_file: Path) -> Iterator[dict | Fault]:
    """The entries of a document's images, each id once; their file name and size are usable."""
    seen = set()
    for number, entry in enumerate(document["images"]):
        try:
            image_id = _checked_id(entry, f"{ann_file}: images[{number}]")
        except UserError as error:
            yield Fault("image_entry", str(error), number, entry)
            continue
        if image_id in seen:
            yield Fault("duplicate_image_id", f"{ann_file}: duplicate image id {image_id}", number, entry)
            continue
        seen.add(image_id)
        yield entry


class _Where(NamedTuple):
    """How an annotation is called in messages; the text is made for faults alone."""

    ann_file: Path
    entry: dict
    number: int

    def __str__(self) -> str:
        return f"{self.ann_file}: annotation {shown(self.entry.get('id', self.number))}"


def walk_annotations(
    document: dict,
    images: Mapping[int, dict],
    labels: Mapping[int, int],
    ann_file: Path,
    crowd_targets: bool = False,
) -> Iterator[Annotation | Fault]:
    """The annotations of a document.

    Args:
        document: of `read_annotations`.
        images: usable entries of images by their id.
        labels: label of each usable category by its id.
        ann_file: where it came from, for messages.
        crowd_targets: crowds are objects; otherwise they are ignored.
    """
    for number, entry in enumerate(document["annotations"]):
        where = _Where(ann_file, entry, number)
        kind, image = "unknown_image", None
        try:
            image = images.get(_field(entry, "image_id", f"{ann_file}: annotations[{number}]"))
            if image is None:
                raise UserError(f"{where}: image_id {shown(repr(entry['image_id']))} is not among the images")
            kind = "unknown_category"
            label = labels.get(_field(entry, "category_id", where))
            if label is None:
                raise UserError(
                    f"{where}: category_id {shown(repr(entry['category_id']))} is not among the categories; "
                    "add it there"
                )
            kind = "annotation_entry"
            box, fault, is_ignored = _annotated_box(entry, image, where, crowd_targets)
        except UserError as error:
            yield Fault(kind, str(error), number, entry, image)
            continue
        if box is None:
            what = f"box {shown(repr(entry['bbox']))} {BOX_FAULTS[fault]}"
            message = f"{where}: {what}; correct it, or invalid_boxes=drop"
            yield Fault(fault, message, number, entry, image)
            continue
        yield Annotation(number, entry, image, box, label, is_ignored)


def _checked_id(entry: dict, where: str) -> int:
    """The id of an entry of `images`, its file name and size checked.

    Raises:
        UserError: one is missing or not usable; the line begins with `where`.
    """
    image_id = _field(entry, "id", where)
    if not _is_whole(image_id, _ID_LIMIT):
        raise UserError(
            f"{where}: id {shown(repr(image_id))} is no whole number; file names are free, ids not"
        )
    name = _field(entry, "file_name", where)
    path = Path(name) if isinstance(name, str) else Path()
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where}: file_name {shown(name)} must be a path inside the folder of images")
    for key in ("width", "height"):
        side = _field(entry, key, f"{where} ({shown(name)})")
        if not _is_whole(side, _SIDE_LIMIT) or side < 1:
            raise UserError(f"{where} ({shown(name)}): {key} {shown(repr(side))} is no positive whole number")
    return image_id


def _annotated_box(
    annotation: dict, image: dict, where: _Where, crowd_targets: bool = False
) -> tuple[tuple[float, float, float, float] | None, str, bool]:
    """x1 y1 x2 y2 of an annotation clipped to its image, or the kind of its fault; whether it is to be ignored.

    Crowds are, but by `crowd_targets`.

    Raises:
        UserError: the box or a flag is no such thing; the line begins with `where`.
    """
    box, fault = _clipped_box(_field(annotation, "bbox", where), image, where)
    if fault:
        return box, fault, False
    crowd, ignored = (_flag(annotation, key, where) for key in ("iscrowd", "ignore"))
    return box, fault, ignored or (crowd and not crowd_targets)


def _clipped_box(bbox, image, where) -> tuple[tuple[float, float, float, float] | None, str]:
    """x1 y1 x2 y2 clipped to the image, or the kind of its fault."""
    try:
        if not isinstance(bbox, list) or not all(type(value) in (int, float) for value in bbox):
            raise TypeError  # text and JSON objects would pass through float() too
        x, y, w, h = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{where}: bbox {shown(repr(bbox))} is not four numbers [x, y, width, height]"
        ) from None
    if not all(map(math.isfinite, (x, y, w, h))):
        return None, "box_not_finite"
    if w <= 0 or h <= 0:
        return None, "box_without_area"
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + w, float(image["width"])), min(y + h, float(image["height"]))
    if x2 <= x1 or y2 <= y1:
        return None, "box_outside"
    if np.float32(x1) == np.float32(x2) or np.float32(y1) == np.float32(y2):
        return None, "box_without_area"  # as float32, in which boxes are kept
    return (x1, y1, x2, y2), ""


def _field(entry: dict, key: str, where: object):
    """A value of a JSON object; a missing one, or a list where a plain value belongs, is named."""
    if key not in entry:
        raise UserError(f"{where}: lacks '{key}'")
    value = entry[key]
    if isinstance(value, list | dict) and key != "bbox":
        raise UserError(f"{where}: '{key}' is a {type(value).__name__}")
    return value


def _flag(entry: dict, key: str, where: object) -> bool:
    """A 0 or 1 of a JSON object, 0 where it is missing; the text "0" would count as true otherwise."""
    value = entry.get(key)
    if value not in (None, 0, 1):
        raise UserError(f"{where}: {key} {shown(repr(value))} is neither 0 nor 1")
    return bool(value)


def _is_whole(value, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -limit < value < limit
