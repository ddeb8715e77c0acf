"""A data set looked through before hours are spent on it: every problem named and counted, and its statistics.

Training stops at the first thing that it cannot use. Here the same checks (`src.yolo_dataset`, `src.imaging.image_io`)
are asked of every entry and every image, and the answers are collected.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..annotations import (
    BOX_FAULTS,
    Annotation,
    Fault,
    walk_annotations,
    walk_categories,
    walk_images,
)
from ..layers.anchors import SECOND_PASS_OVERLAP, fit_of
from ..transforms import letterbox_geometry, stretch_geometry
from .checked import CheckedImage, CheckedSet
from .findings import Findings
from .formats.yolo_labels import annotations_of

LOW_RECALL = 0.8  # share of the boxes that an anchor fits, below which anchors of one's own are advised
_HUNDREDTHS = (5, 25, 50, 75, 95)


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
    label_of = {}
    for category in walk_categories(document, labels, ann_file):
        if isinstance(category, Fault):
            entry = category.entry
            findings.add(
                category.kind, f"{ann_file}: name {entry.get('name')!r:.80}, id {entry.get('id')!r:.80}"
            )
            continue
        label_of[category.id] = category.label
        if category.label < 0:
            findings.add("unknown_label", f"{ann_file}: {category.name!r:.80}")
    entries, images = {}, {}
    names: set = set()
    for entry in walk_images(document, ann_file):
        if isinstance(entry, Fault):
            name = f" ({entry.entry['file_name']})" if entry.kind == "duplicate_image_id" else ""
            findings.add(entry.kind, entry.message + name)
            continue
        path = folder / entry["file_name"]
        if path in names:
            findings.add(
                "duplicate_file_name", f"{ann_file}: {entry['file_name']}, the second time as {entry['id']}"
            )
        names.add(path)
        entries[entry["id"]] = entry
        images[entry["id"]] = CheckedImage(entry["id"], path, entry["width"], entry["height"])
    ids: set = set()
    for found in walk_annotations(document, entries, label_of, ann_file, crowd_targets):
        _note_duplicate_id(found, ids, ann_file, findings)
        if isinstance(found, Fault):
            findings.add(found.kind, _example(found, ann_file))
            continue
        bbox, entry = found.entry["bbox"], found.image
        if _is_cut(bbox, entry):
            size = f"{entry['width']}x{entry['height']} {entry['file_name']}"
            findings.add("box_cut", f"{ann_file}: annotations[{found.number}] of {size}: {bbox!r:.120}")
        image = images[entry["id"]]
        if found.is_ignored:
            image.ignored += 1
        else:
            image.boxes.append((*found.box, found.label))
    ordered = [images[image_id] for image_id in sorted(images)]
    return CheckedSet(split, folder, ann_file, labels, ordered)


def _note_duplicate_id(found: Annotation | Fault, ids: set, ann_file: Path, findings: Findings) -> None:
    own_id = found.entry.get("id")
    if isinstance(own_id, int | str):
        if own_id in ids:
            findings.add(
                "duplicate_annotation_id", f"{ann_file}: annotations[{found.number}]: id {own_id!r:.80}"
            )
        ids.add(own_id)


def _example(fault: Fault, ann_file: Path) -> str:
    """What is said of a fault of an annotation."""
    where, entry = f"{ann_file}: annotations[{fault.number}]", fault.entry
    if fault.kind in BOX_FAULTS and fault.image is not None:
        return f"{where} of {fault.image['file_name']}: {entry['bbox']!r:.120}"
    for kind, key in (("unknown_image", "image_id"), ("unknown_category", "category_id")):
        if fault.kind == kind:
            return f"{where}: {key} {entry.get(key)!r:.80}"
    return fault.message


def _is_cut(bbox: list, image: dict, slack: float = 1.0) -> bool:
    """Whether a box leaves its image by more than rounding explains."""
    x, y, w, h = map(float, bbox)
    return min(x, y) < -slack or x + w > image["width"] + slack or y + h > image["height"] + slack


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
