"""Annotations in COCO's format to records of images with their boxes, with every odd box accounted for."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .annotations import (
    BOX_FAULTS,
    Fault,
    read_annotations,
    walk_annotations,
    walk_categories,
    walk_images,
)
from .base.errors import UserError, shown
from .imaging.image_io import read_size

_LEAST_SIDE = 1  # pixels; an image whose objects are no wider or no higher has nothing to learn from


@dataclass(frozen=True)
class ImageRecord:
    """One image: boxes (n, 4) float32 x1 y1 x2 y2 in its pixels, classes (n,), ignored regions (m, 4)."""

    id: int
    path: Path
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray

    @classmethod
    def unlabelled(cls, number: int, path: Path, width: int, height: int) -> "ImageRecord":
        """An image of which nothing is known but its size."""
        none = np.zeros((0, 4), np.float32)
        return cls(number, path, width, height, none, np.zeros(0, np.int32), none)


@dataclass(frozen=True)
class DetectionSet:
    """The records of an annotation file.

    Attributes:
        records: the images, ordered by id.
        class_names: class names in the order of the network's outputs.
        category_ids: COCO category id of each class.
        ann_file: where it came from.
        dropped: how many boxes or images were left out, by reason.
        resized: images whose own size took the place of the annotated one.
    """

    records: list[ImageRecord]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    ann_file: Path
    dropped: dict[str, int] = field(default_factory=dict)
    resized: int = 0

    def describe(self) -> str:
        """One line: images, objects, ignored regions, and what was left out."""
        objects = sum(len(record.boxes) for record in self.records)
        ignored = sum(len(record.ignored) for record in self.records)
        line = f"{self.ann_file}: {len(self.records)} images, {objects} objects"
        if ignored:
            line += f", {ignored} ignored regions"
        if self.dropped:
            line += "; left out: " + ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())
        if self.resized:
            line += f"; {self.resized} images of another size than annotated taken as they are"
        return line


def resolve_set(data_dir: str | Path, split: str, ann_file: str | Path = "") -> tuple[Path, Path]:
    """(folder of images, annotation file) of a split, by DOTA's or COCO's own names.

    Args:
        data_dir: folder with annotations/{split}.json and {split}/, or annotations/instances_{split}2017.json
            and {split}2017/; the images may lie below images/. Where there is no annotation file, MindYOLO's text
            labels are taken for training: {split}2017.txt or labels/{split}2017/ (`src.datasets.formats.yolo_labels`).
        split: train, val or test.
        ann_file: an annotation file or list elsewhere; `data_dir` may then be the folder of the images itself.

    Raises:
        UserError: names all that was looked for.
    """
    if not str(data_dir):
        raise UserError("data_dir: not set; give the folder of the data set, --data_dir=FOLDER")
    root = Path(data_dir)
    if not root.is_dir():
        raise UserError(f"data_dir: {root} is no folder")
    folders = [root / name for name in (split, f"{split}2017", f"images/{split}2017", f"images/{split}")]
    names = (f"{split}.json", f"instances_{split}2017.json", f"image_info_{split}-dev2017.json")
    files = [root / "annotations" / name for name in (names if split == "test" else names[:2])]
    if str(ann_file) and Path(ann_file).suffix == ".txt" and Path(ann_file).is_file():
        return Path(ann_file).parent, Path(ann_file)
    if split == "train" and not str(ann_file) and not any(file.is_file() for file in files):
        labelled = _text_labels(root, split)
        if labelled:
            return labelled
    if str(ann_file):
        files = [Path(ann_file)]
        folders.append(root)
    return _first(folders, Path.is_dir, "folder"), _first(files, Path.is_file, "file")


def _text_labels(root: Path, split: str) -> tuple[Path, Path] | None:
    """Folder of images, and the list or folder of text labels of a split; None where there are none."""
    for name in (f"{split}2017", split):
        images, labels = root / "images" / name, root / "labels" / name
        if labels.is_dir() and (root / f"{name}.txt").is_file():
            return root, root / f"{name}.txt"
        if labels.is_dir() and images.is_dir():
            return images, labels
    return None


def _first(candidates: list[Path], exists, kind: str) -> Path:
    for candidate in candidates:
        if exists(candidate):
            return candidate
    raise UserError(f"data_dir: no {kind} {' or '.join(map(str, candidates))}; see README for the layout")


def load_detection_set(
    image_dir: Path,
    ann_file: Path,
    class_names,
    *,
    keep_empty: bool = True,
    crowd_targets: bool = False,
    invalid_boxes: str = "drop",
    bad_annotations: str = "error",
    wrong_sizes: str = "error",
    document: dict | None = None,
) -> DetectionSet:
    """Read an annotation file.

    Crowd boxes (but by `crowd_targets`) and boxes marked `ignore` become ignored regions: no targets. Boxes
    without area, not finite or outside their image are dropped and counted, or refused; others are clipped
    to the image.

    Args:
        image_dir: folder of the images.
        ann_file: COCO-format JSON.
        class_names: names in the order of the network's outputs; categories are matched by name.
        keep_empty: keep images without an object that is wider and higher than a pixel, as annotated.
        crowd_targets: crowd boxes are objects like others.
        invalid_boxes: `error`, or `drop` and count them.
        bad_annotations: `error` refuses the file, or `drop` and count annotations of an unknown image or category or
            with no box, and entries of an image id that was there before.
        wrong_sizes: an image of another size than annotated: `error` when it is read, or `repair`: look into
            every image now, take its own size and clip its boxes, whose pixels stay, to it.
        document: what `ann_file` holds, where it has been read already.

    Raises:
        UserError: an unreadable or empty file, a missing key, an unknown category or image, a duplicate
            id, missing image files, a size that `repair` cannot repair.
    """
    document = read_annotations(ann_file) if document is None else document
    category_ids, class_of = _match_categories(document, tuple(class_names), ann_file)
    dropped: Counter = Counter()
    forgiving = bad_annotations == "drop"
    images = _index_images(document, ann_file, forgiving, dropped)
    resized = _take_own_sizes(images, image_dir) if wrong_sizes == "repair" else 0
    boxes: dict = {image_id: [] for image_id in images}
    ignored: dict = {image_id: [] for image_id in images}
    with_objects = set()
    for found in walk_annotations(document, images, class_of, ann_file, crowd_targets):
        if isinstance(found, Fault):
            is_box = found.kind in BOX_FAULTS
            if invalid_boxes == "error" if is_box else not forgiving:
                raise UserError(found.message)
            dropped[f"boxes: {BOX_FAULTS[found.kind]}" if is_box else "annotations that cannot be used"] += 1
        elif found.is_ignored:
            ignored[found.image["id"]].append(found.box)
        else:
            boxes[found.image["id"]].append((*found.box, found.label))
            if min(found.entry["bbox"][2:]) > _LEAST_SIDE:
                with_objects.add(found.image["id"])
    if not keep_empty:
        dropped["images without objects"] = len(images) - len(with_objects)
    records = [
        _record(images[image_id], image_dir, boxes[image_id], ignored[image_id])
        for image_id in sorted(images)
        if keep_empty or image_id in with_objects
    ]
    if not records:
        raise UserError(f"{ann_file}: no image with objects is left; keep_empty=1 keeps the others")
    _check_files(records, image_dir, ann_file)
    counts = {reason: count for reason, count in dropped.items() if count}
    return DetectionSet(records, tuple(class_names), category_ids, Path(ann_file), counts, resized)


def _match_categories(document, class_names, ann_file) -> tuple[tuple[int, ...], dict]:
    """COCO id of each class, and class of each COCO id; matched by name."""
    id_of_name = {}
    for category in walk_categories(document, class_names, ann_file):
        if isinstance(category, Fault):
            raise UserError(category.message)
        id_of_name[category.name] = category.id
    unknown = [name for name in id_of_name if name not in class_names]
    if unknown:
        names = ", ".join(map(shown, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise UserError(f"{ann_file}: categories that are not in labels: {names}; set labels to your classes")
    missing = [name for name in class_names if name not in id_of_name]
    if len(missing) == len(class_names):
        raise UserError(f"{ann_file}: it has no categories; list the classes of labels there")
    # Classes that this file does not know get ids of their own, so that a detection can still be written.
    free = max(id_of_name.values()) + 1
    for offset, name in enumerate(missing):
        id_of_name[name] = free + offset
    ids = tuple(id_of_name[name] for name in class_names)
    known = {id_of_name[name]: index for index, name in enumerate(class_names) if name not in missing}
    return ids, known


def _index_images(document, ann_file, forgiving: bool, dropped: Counter) -> dict:
    """The entries by their id; the second of an id is an error, or counted in `dropped`."""
    images: dict = {}
    for entry in walk_images(document, ann_file):
        if not isinstance(entry, Fault):
            images[entry["id"]] = entry
        elif forgiving and entry.kind == "duplicate_image_id":
            dropped["image entries of a duplicate id"] += 1
        else:
            raise UserError(entry.message)
    return images


def _take_own_sizes(images: dict, image_dir: Path) -> int:
    """Put the size of each image into its entry; how many were annotated with another one.

    Raises:
        UserError: an image cannot be read, or its sides are exchanged: its boxes then belong to a turned image.
    """
    changed = 0
    for entry in images.values():
        path = Path(image_dir) / entry["file_name"]
        if not path.is_file():
            continue  # missing images are counted and named together
        annotated, own = (entry["width"], entry["height"]), read_size(path)
        if annotated == own:
            continue
        if annotated == own[::-1]:
            raise UserError(
                f"{path}: the image is {own[0]}x{own[1]}, annotated {own[1]}x{own[0]}: its boxes are a turned "
                "image's, which wrong_sizes=repair does not repair; turn it back, or correct the file"
            )
        entry["width"], entry["height"] = own
        changed += 1
    return changed


def _record(image, image_dir, boxes, ignored) -> ImageRecord:
    table = np.array(boxes, np.float32).reshape(-1, 5)
    return ImageRecord(
        id=image["id"],
        path=Path(image_dir) / image["file_name"],
        width=image["width"],
        height=image["height"],
        boxes=np.ascontiguousarray(table[:, :4]),
        classes=table[:, 4].astype(np.int32),
        ignored=np.array(ignored, np.float32).reshape(-1, 4),
    )


def _check_files(records, image_dir, ann_file) -> None:
    """Name missing images before hours are spent; one listing a folder."""
    present = {folder: set(_names(folder)) for folder in {record.path.parent for record in records}}
    missing = [record.path for record in records if record.path.name not in present[record.path.parent]]
    if missing:
        raise UserError(
            f"{ann_file}: {len(missing)} of its {len(records)} images are not in {image_dir}, "
            f"first {shown(missing[0], 300)}"
        )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 (names alone: half the time over a hundred thousand)
    except PermissionError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError):  # no folder, or no name that a folder could have
        return []
