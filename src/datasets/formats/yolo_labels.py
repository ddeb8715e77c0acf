"""YOLO's text labels as a COCO document, so that a set in MindYOLO's layout is trained on as it lies.

MindYOLO lists the images of a set in `train2017.txt` (a path a line, such as ./images/train2017/1.jpg) and has their
labels in `labels/train2017/1.txt` (`class x y w h` or an outline a line, as shares of the image's sides). Either
stands where an annotation file would: the list, or the folder of labels.
"""

from collections import Counter
from pathlib import Path

from ...annotations import read_annotations
from ...base.errors import UserError
from ...imaging.image_io import read_size
from ...logger import get_logger, progress_bar
from .labelled import ReadOptions, images_below, without_repeats
from .yolo_txt import label_path, listed_images, read_yolo_labels


def annotations_of(image_dir: Path, ann_file: Path, class_names) -> dict:
    """The COCO document of an annotation file, or of text labels where `ann_file` is a list or a folder of these.

    Args:
        image_dir: folder that the document's file names are relative to.
        ann_file: as `resolve_set` found it.
        class_names: names by the labels' numbers; a COCO file brings its own.

    Raises:
        UserError: as of `read_annotations`; a line that is no label, an image that is missing or outside of
            `image_dir`, or no label at all.
    """
    if not (ann_file.is_dir() or ann_file.suffix == ".txt"):
        return read_annotations(ann_file)
    names = tuple(class_names)
    left_out: Counter = Counter()
    found = images_below(image_dir) if ann_file.is_dir() else listed_images(ann_file, Path())
    paths = without_repeats(found, left_out)
    if not paths:
        raise UserError(f"{ann_file}: names no images; a path a line, such as ./images/train2017/1.jpg")
    numbers = [int(path.stem) if path.stem.isdecimal() else -1 for path in paths]
    if -1 in numbers or len(set(numbers)) < len(numbers):
        numbers = range(1, len(paths) + 1)
    images, annotations = [], []
    without_file = repeated = 0
    with progress_bar(len(paths), "read", "image") as bar:
        for number, path in zip(numbers, paths):
            bar.update()
            if not path.is_relative_to(image_dir):
                raise UserError(
                    f"{ann_file}: {path} is not below {image_dir}; list it relative to that folder"
                )
            width, height = read_size(path)
            file_name = path.relative_to(image_dir).as_posix()
            images.append({"id": number, "file_name": file_name, "width": width, "height": height})
            labels = _label_file(path, image_dir, ann_file)
            if not labels.is_file():
                without_file += 1
                continue
            objects = read_yolo_labels(labels, names, width, height)
            kept = {(found.name, found.box): found for found in objects}
            repeated += len(objects) - len(kept)
            for found in kept.values():
                x1, y1, x2, y2 = found.box
                box = [x1, y1, x2 - x1, y2 - y1]
                category = names.index(found.name) + 1
                annotations.append(
                    {"id": found.where, "image_id": number, "category_id": category, "bbox": box}
                )
    if without_file == len(paths):
        raise UserError(
            f"{ann_file}: none of its {len(paths)} images has a label file, expected for example "
            f"{_label_file(paths[0], image_dir, ann_file)}"
        )
    notes = {**left_out, "images without a label file, taken as without objects": without_file}
    notes["labels written twice left out"] = repeated
    for note, count in notes.items():
        if count:
            get_logger().info("%s: %d %s", ann_file, count, note)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _label_file(image: Path, image_dir: Path, ann_file: Path) -> Path:
    """Where an image's labels are: below the folder of labels, or as YOLO has it from the image's path."""
    if ann_file.is_dir():
        return (ann_file / image.relative_to(image_dir)).with_suffix(".txt")
    return label_path(image, image_dir, ReadOptions())
