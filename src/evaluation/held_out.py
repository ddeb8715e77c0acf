"""Detections for the held-out test set: by an annotation file, or a folder of images of any names and classes."""

import time
from pathlib import Path

import numpy as np

from ..base.atomic import write_json
from ..base.coco_classes import category_ids
from ..base.errors import UserError, shown
from ..base.text_file import read_text
from ..config import Config
from ..detect.backends import open_model
from ..detect.merge import MergeOptions
from ..detect.postprocess import postprocess_options
from ..imaging.image_io import IMAGE_SUFFIXES, is_image, read_size
from ..logger import get_logger
from ..runtime.device import Runtime
from ..yolo_dataset import DetectionSet, ImageRecord, resolve_set
from .dota_submission import is_tiled, merge_scenes, score_scenes, write_submission
from .session import detect_in_set, evaluate_set, load_labelled, load_validation_set, log_scores, start_folder

TEST_LIST = "testdev2017.txt"  # COCO's test-dev is a part of its test set


def load_test_set(config: Config) -> tuple[DetectionSet, bool]:
    """The test set of the options, and whether its image ids come from an annotation file.

    Without an annotation file every image of data_dir/test (or test2017) is taken, or those of testdev2017.txt
    where that lies beside it: the id is the name where all names are numbers, as COCO's are, and otherwise counts
    from 1; COCO's 80 classes have COCO's ids, others 1, 2, ...
    Where there is no test set at all it is the validation set, as users of MindYOLO know test.py.

    Raises:
        UserError: neither an annotation file nor a folder of images, or a list that names images not there.
    """
    root = Path(config.data_dir)
    folders = [root / name for name in ("test", "test2017") if config.data_dir and (root / name).is_dir()]
    if not folders and not config.ann_file:
        get_logger().info("%s: no test set, the validation set is taken", config.data_dir)
        return load_validation_set(config), True
    try:
        image_dir, ann_file = resolve_set(config.data_dir, "test", config.ann_file)
    except UserError:
        if config.ann_file:
            raise
        return _from_folder(folders[0], tuple(config.labels)), False
    return load_labelled(config, image_dir, ann_file), True


def _from_folder(image_dir: Path, class_names: tuple[str, ...]) -> DetectionSet:
    paths = sorted(path for path in image_dir.rglob("*") if is_image(path))
    if not paths:
        raise UserError(f"data_dir: no images ({', '.join(IMAGE_SUFFIXES)}) in {image_dir}")
    listed = image_dir.parent / TEST_LIST
    if listed.is_file():
        paths = _chosen(paths, listed, image_dir)
    numbered = all(path.stem.isdecimal() for path in paths) and len(
        {int(path.stem) for path in paths}
    ) == len(paths)
    records = []
    for number, path in enumerate(paths, start=1):
        width, height = read_size(path)
        image_id = int(path.stem) if numbered else number
        records.append(ImageRecord.unlabelled(image_id, path, width, height))
    return DetectionSet(records, class_names, category_ids(class_names), image_dir)


def _chosen(paths: list[Path], listed: Path, image_dir: Path) -> list[Path]:
    """The images that a list names, a path a line, by their file names alone: the folders before them differ."""
    try:
        lines = read_text(listed).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{listed}: cannot be read as text ({error})") from error
    names = {line.strip().replace("\\", "/").rpartition("/")[2] for line in lines if line.strip()}
    if not names:
        raise UserError(f"{listed}: names no image; remove it to take every image of {image_dir}")
    chosen = [path for path in paths if path.name in names]
    missing = sorted(names - {path.name for path in chosen})
    if missing:
        raise UserError(
            f"{listed}: {len(missing)} of its {len(names)} images are not in {image_dir}, first {shown(missing[0])}"
        )
    get_logger().info("%s: %d of %d images of %s", listed, len(chosen), len(paths), image_dir)
    return chosen


def detect_test_set(config: Config, runtime: Runtime) -> int:
    """Write the detections of `pretrained` on the test set; AP too where it is annotated. The exit code.

    Raises:
        UserError: no checkpoint, or a set or checkpoint that cannot be used.
    """
    started = time.perf_counter()
    folder = start_folder(config, runtime)
    logger = get_logger()
    backend, config = open_model(config)
    dataset, has_ids = load_test_set(config)
    logger.info(dataset.describe())
    options = postprocess_options(config, "test_ignore_threshold", "test_nms_thresh")
    if any(len(record.boxes) for record in dataset.records):
        evaluation = evaluate_set(backend, dataset, config, folder, runtime, options)
        table = evaluation.table
        log_scores(evaluation)
    else:
        table, _ = detect_in_set(backend, dataset, config, folder, runtime, options)
        logger.info("the test set has no annotations: no AP")
    if not has_ids and runtime.is_master:
        # Without an annotation file nobody else knows which image an id means.
        write_json(folder / "images.json", {str(record.id): str(record.path) for record in dataset.records})
    if runtime.is_master and is_tiled(dataset):
        submit_scenes(table, dataset, config, folder)
    logger.info("testing cost time %.2fh", (time.perf_counter() - started) / 3600)
    return 0


def submit_scenes(table: np.ndarray, dataset: DetectionSet, config: Config, folder: Path) -> None:
    """DOTA's Task 2 files of tiles' detections, merged to scenes, and their score where labels are given.

    Raises:
        UserError: a label file is missing or damaged, or the disk is full.
    """
    scenes = merge_scenes(table, dataset, MergeOptions(config.scene_merge))
    target = write_submission(scenes, dataset.class_names, folder / "Task2.zip")
    count = sum(len(found) for found in scenes.values())
    get_logger().info("DOTA Task 2, %d detections in %d scenes: %s", count, len(scenes), target)
    if config.label_dir:
        result = score_scenes(scenes, Path(config.label_dir), dataset.class_names)
        get_logger().info("\nDOTA Task 2, AP at IoU 0.5 of scenes\n%s", result.table())
