"""DOTA Task 2 (horizontal boxes): tiles' detections merged to scenes, submission files, and their score.

A submission is a zip of one `Task2_<class>.txt` a class with lines `<scene> <score> <xmin> <ymin> <xmax>
<ymax>` in scene pixels (https://captain-whu.github.io/DOTA/tasks.html).
"""

import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..annotations import read_annotations
from ..base.atomic import atomic_path
from ..base.errors import UserError, shown
from ..base.file_names import file_stem
from ..datasets.dota_labels import object_boxes, read_labels
from ..detect.merge import DEFAULT_MERGE, MergeOptions, TileDetections, merge_scene
from ..detect.postprocess import Detections
from ..imaging.boxes import from_corner
from ..yolo_dataset import DetectionSet
from .dota_metrics import DotaResult, SceneObjects, evaluate_dota

_TILE_NAME = re.compile(r"(?P<scene>.+)__x(?P<x>\d+)__y(?P<y>\d+)")
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: equal content, equal file


@dataclass(frozen=True)
class TilePlace:
    """Where an image of the set lies: scene, x and y of its corner there, and its size within the scene."""

    scene: str
    x: int
    y: int
    width: int
    height: int


def is_tiled(dataset: DetectionSet) -> bool:
    """Whether the images of a set are tiles of scenes, by their names, as `utils/split_dota.py` writes them."""
    return all(_TILE_NAME.fullmatch(record.path.stem) for record in dataset.records)


def find_places(dataset: DetectionSet) -> tuple[dict[int, TilePlace], dict[str, tuple[int, int]]]:
    """Place of each image of a set, by its id, and (width, height) of each scene.

    They stand in the annotation file that `utils/dota` wrote. Elsewhere the names tell,
    `<scene>__x<X>__y<Y>`; a scene is then as large as its tiles reach. An image with another name is a
    scene of its own.

    Raises:
        UserError: the annotation file places a tile outside of its scene.
    """
    entries = {}
    if dataset.ann_file.is_file():
        entries = {entry["id"]: entry for entry in read_annotations(dataset.ann_file)["images"]}
    places, sizes = {}, {}
    for record in dataset.records:
        entry = entries.get(record.id, {})
        name = _TILE_NAME.fullmatch(record.path.stem)
        if {"scene", "offset", "scene_size"} <= entry.keys():
            scene = str(entry["scene"])
            try:
                (x, y), (width, height) = entry["offset"], entry["scene_size"]
                fits = all(type(value) is int for value in (x, y, width, height))
                fits = fits and 0 <= x < width < 2**31 and 0 <= y < height < 2**31
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise UserError(
                    f"{dataset.ann_file}: {record.path.name} has an offset outside of its scene_size "
                    f"({shown(entry['offset'])} in {shown(entry['scene_size'])}); split the scenes again"
                )
        else:
            scene, x, y = (
                (name["scene"], int(name["x"]), int(name["y"])) if name else (record.path.stem, 0, 0)
            )
            width, height = x + record.width, y + record.height
        known = sizes.get(scene, (0, 0))
        sizes[scene] = max(known[0], width), max(known[1], height)
        places[record.id] = TilePlace(
            scene, x, y, min(record.width, width - x), min(record.height, height - y)
        )
    return places, sizes


def merge_scenes(
    table: np.ndarray, dataset: DetectionSet, options: MergeOptions = DEFAULT_MERGE
) -> dict[str, Detections]:
    """Detections of a set's tiles (rows of `DETECTION`) as detections of its scenes, by their names.

    Every scene of the set is there, also one without detections; classes are indices of
    `dataset.class_names`.

    Raises:
        UserError: the annotation file places a tile outside of its scene.
    """
    places, sizes = find_places(dataset)
    tiles_of = defaultdict(list)
    for image_id, place in places.items():
        tiles_of[place.scene].append(image_id)
    class_of = {category: index for index, category in enumerate(dataset.category_ids)}
    order = np.argsort(table["image_id"], kind="stable")
    table = table[order]
    scenes = {}
    for scene in sorted(tiles_of):
        ids = tiles_of[scene]
        rows = [slice(*np.searchsorted(table["image_id"], [number, number + 1])) for number in ids]
        offsets = np.array([(places[number].x, places[number].y) for number in ids], np.float64)
        sides = np.array([(places[number].width, places[number].height) for number in ids], np.float64)
        windows = np.concatenate([offsets, offsets + sides], axis=1)
        found = np.concatenate([table[part] for part in rows])
        tile = np.repeat(np.arange(len(ids)), [part.stop - part.start for part in rows])
        boxes = from_corner(found["bbox"].astype(np.float64))
        boxes = np.clip(boxes + np.tile(offsets[tile], (1, 2)), 0, sizes[scene] * 2)
        real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # not all in the padding of a small scene
        classes = np.array([class_of[number] for number in found["category_id"].tolist()], np.int32)
        merged = TileDetections(
            boxes[real], found["score"][real], classes[real], tile[real], windows, sizes[scene]
        )
        scenes[scene] = merge_scene(merged, options)
    return scenes


def write_submission(scenes: Mapping[str, Detections], class_names, path: Path) -> Path:
    """Write a submission; the same detections give the same bytes.

    Args:
        scenes: detections of each scene, of `merge_scenes`.
        class_names: names of the classes; each gets a file, also without detections.
        path: the zip.

    Returns:
        The path.

    Raises:
        UserError: it cannot be written, or a scene's name has a space, which the format cannot hold, or a class's
            name is none of a file.
    """
    spaced = next((scene for scene in scenes if len(scene.split()) != 1), None)
    if spaced is not None:
        raise UserError(
            f"scene {spaced!r}: DOTA's format has no place for a space in a name; rename the file"
        )
    odd = next((name for name in class_names if file_stem(name) != name), None)
    if odd is not None:
        raise UserError(f"class {odd!r}: is no name of a file in a submission; rename the class")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        for label, name in enumerate(class_names):
            info = zipfile.ZipInfo(f"Task2_{name}.txt", _ZIP_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, "".join(_class_lines(scenes, label)))
    return path


def _class_lines(scenes: Mapping[str, Detections], label: int) -> Iterable[str]:
    for scene in sorted(scenes):
        found = scenes[scene]
        chosen = np.flatnonzero(found.classes == label)
        for score, box in zip(found.scores[chosen].tolist(), found.boxes[chosen].tolist()):
            yield "{} {:.6g} {:.2f} {:.2f} {:.2f} {:.2f}\n".format(scene, score, *box)


def read_truth(label_dir: Path, scenes: Iterable[str], class_names) -> dict[str, SceneObjects]:
    """Ground truth of scenes from their files in a `labelTxt` folder, oriented boxes made horizontal.

    Raises:
        UserError: a scene has no label file, or one that cannot be read.
    """
    truth = {}
    for scene in scenes:
        path = Path(label_dir) / f"{scene}.txt"
        if not path.is_file():
            raise UserError(f"{path}: no such label file; give the labelTxt folder of the set's scenes")
        objects = read_labels(path, tuple(class_names))
        truth[scene] = SceneObjects(
            object_boxes(objects),
            np.array([class_names.index(entry.name) for entry in objects], np.int32),
            np.array([entry.difficult for entry in objects], bool),
        )
    return truth


def score_scenes(scenes: Mapping[str, Detections], label_dir: Path, class_names) -> DotaResult:
    """DOTA's score of scenes' detections against a `labelTxt` folder.

    Args:
        scenes: detections of each scene that counts, of `merge_scenes`; one without any is there too.
        label_dir: folder of the label files.
        class_names: names of the classes.

    Raises:
        UserError: a label file is missing or cannot be read.
    """
    class_names = tuple(class_names)
    truth = read_truth(label_dir, scenes, class_names)
    return evaluate_dota(truth, scenes, class_names)
