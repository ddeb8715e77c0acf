"""A whole evaluation as the options describe it: the set, the network, detections, metrics and files."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.file_names import output_stems
from ..config import Config
from ..data_loader import EvalLoader
from ..detect.backends import Backend
from ..detect.detections import DETECTION, detect_set, to_table, write_coco_json
from ..detect.letterbox import eval_resize
from ..detect.postprocess import PostprocessOptions, postprocess_options
from ..detect.predictions import Prediction
from ..distributed_sampler import shard_indices
from ..imaging.image_io import check_file, is_truncated, read_rgb, write_image
from ..imaging.visualize import draw_boxes, side_by_side
from ..logger import get_logger, progress_bar, setup_logger
from ..runtime.collectives import data_threads, gather_numbers, gather_rows, new_folder
from ..runtime.device import Runtime
from ..runtime.stop_request import StopRequest
from ..yolo_dataset import DetectionSet, ImageRecord, load_detection_set, resolve_set
from .analysis import FALLBACK_SCORE, PairedImage, pair_images, score_thresholds
from .coco_metrics import CocoResult, evaluate_coco

NOBODY = StopRequest()  # asks for nothing


class StoppedEvaluation(Exception):
    """A rank was asked to stop while images were detected in.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: metrics, the table of detections and the file they were written to."""

    result: CocoResult
    table: np.ndarray
    json_file: Path


def load_validation_set(config: Config) -> DetectionSet:
    """The validation set of the options, with the images that have no objects too."""
    return load_labelled(config, *resolve_set(config.data_dir, "val", config.ann_val_file))


def load_labelled(config: Config, image_dir: Path, ann_file: Path) -> DetectionSet:
    """A set whose detections are scored."""
    return load_detection_set(
        image_dir, ann_file, config.labels, **config.pick("invalid_boxes", "wrong_sizes")
    )


def detect_in_set(
    backend: Backend,
    dataset: DetectionSet,
    config: Config,
    folder: Path,
    runtime: Runtime,
    options: PostprocessOptions,
    stop: StopRequest = NOBODY,
) -> tuple[np.ndarray, Path]:
    """Detect in every image of a set; the table of detections and the JSON file they were written to.

    The images are shared out among the ranks and the detections gathered; every rank gets the table,
    rank 0 writes the file. A rank that fails, or is asked to stop, says so to the others, which wait for its part.

    Raises:
        StoppedEvaluation: a rank was asked to stop.
        UserError: an image cannot be read, on this rank or another.
    """
    table, failure = np.empty(0, DETECTION), None
    try:
        table = _detect_share(backend, dataset, config, runtime, options, stop)
    except Exception as error:
        failure = error
    told = gather_numbers(runtime, [stop.number, int(failure is not None)])
    if number := int(told[:, 0].max()):
        raise StoppedEvaluation(number)
    if failure is not None:
        raise failure
    if told[:, 1].any():
        raise UserError(
            f"rank {int(told[:, 1].argmax())} could not do its part of the evaluation; see its log"
        )
    table = gather_rows(runtime, table)
    table = table[np.argsort(table["image_id"], kind="stable")]  # one order, whatever the number of ranks
    json_file = folder / f"predict_{datetime.now():%Y_%m_%d_%H_%M_%S}.json"
    if runtime.is_master:
        write_coco_json(json_file, table)
        get_logger().info("result file path: %s", json_file)
    return table, json_file


def _detect_share(
    backend: Backend,
    dataset: DetectionSet,
    config: Config,
    runtime: Runtime,
    options: PostprocessOptions,
    stop: StopRequest,
) -> np.ndarray:
    """This rank's detections; those so far where it is asked to stop."""
    logger = get_logger()
    loader = EvalLoader(
        dataset,
        input_hw=config.eval_input_hw,
        batch_size=config.eval_batch_size,
        indices=shard_indices(len(dataset.records), runtime.rank, runtime.group_size),
        resize=eval_resize(config),
        workers=data_threads(runtime, config.num_parallel_workers),
    )
    tables = [np.empty(0, DETECTION)]
    total = len(loader.indices)
    seconds = 0.0

    def timed(images: np.ndarray) -> Prediction:
        nonlocal seconds
        started = time.perf_counter()
        found = backend.detect(images)
        seconds += time.perf_counter() - started
        return found

    batches = takewhile(lambda batch: not stop.number, loader)
    with progress_bar(total, "evaluate", "image", runtime.rank) as bar:
        done = capped = 0
        for batch, found in detect_set(timed, batches, options, bar.update):
            tables.extend(
                to_table(image_id, detections, dataset.category_ids)
                for image_id, detections in zip(batch.image_ids, found)
            )
            capped += sum(detections.capped for detections in found)
            before, done = done, done + batch.valid
            if bar.disable and done * 10 // total > before * 10 // total:
                logger.info("Processing... %.2f%% ", 100 * done / total)
    if capped:
        logger.info(
            "%d of %d images have more than max_detections=%d detections: the best are kept",
            capped, total, config.max_detections,
        )  # fmt: skip
    # As the published inference tool has it.
    logger.info(
        "NN inference cost average time: %.3f ms of infer_count %d", 1000 * seconds / max(total, 1), total
    )
    return np.concatenate(tables)


def check_validation_images(dataset: DetectionSet, config: Config, runtime: Runtime) -> None:
    """Look at the images of a set before the hours that go by until its evaluation; a rank looks at its share.

    Their headers are read, not their pixels: about 0.2 ms an image and thread from a disk's cache.

    Raises:
        UserError: images are missing, are none, or of other sizes than annotated; counts them and names the first.
    """
    indices = shard_indices(len(dataset.records), runtime.rank, runtime.group_size)
    records = [dataset.records[index] for index in indices]
    with ThreadPoolExecutor(data_threads(runtime, config.num_parallel_workers)) as pool:
        faults = [fault for fault in pool.map(_fault_of, records) if fault]
    if faults:
        raise UserError(
            f"{len(faults)} of {len(records)} validation images cannot be used, first {faults[0]}"
        )


def _fault_of(record: ImageRecord) -> str:
    try:
        check_file(record.path, (record.width, record.height))
        if is_truncated(record.path):
            return f"{record.path}: the image is truncated; copy it again or remove it from the annotations"
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{record.path}: cannot be read ({error.strerror})"
    return ""


def evaluate_set(
    backend: Backend,
    dataset: DetectionSet,
    config: Config,
    folder: Path,
    runtime: Runtime,
    options: PostprocessOptions | None = None,
    stop: StopRequest = NOBODY,
) -> Evaluation:
    """Detect in every image of a set and score the detections; `options` are eval.py's by default."""
    options = options or postprocess_options(config)
    table, json_file = detect_in_set(backend, dataset, config, folder, runtime, options, stop)
    get_logger().info("Calculating mAP...")
    result = evaluate_coco(
        dataset.ann_file,
        table,
        dataset.class_names,
        dataset.category_ids,
        max_detections=config.max_detections,
    )
    return Evaluation(result, table, json_file)


def start_folder(config: Config, runtime: Runtime) -> Path:
    """The folder of this evaluation's results, with its log; one on all ranks.

    Raises:
        UserError: no checkpoint is given.
    """
    if not config.pretrained:
        raise UserError("pretrained: not set; give the checkpoint, --pretrained=FILE")
    if config.origins["batch_size"] == "command line" and config.pretrained.endswith(".ckpt"):
        raise UserError("batch_size: is that of exported models; a checkpoint's is eval_batch_size")
    folder = new_folder(config.log_path, runtime)
    setup_logger(folder, runtime.rank)
    return folder


def log_scores(evaluation: Evaluation) -> None:
    """The metrics under the published heading; its spelling is the published one too: users grep it."""
    get_logger().info("\n=============coco eval reulst=========\n%s", evaluation.result.text())


def write_images(
    evaluation: Evaluation, dataset: DetectionSet, folder: Path, recommended: bool
) -> list[tuple[PairedImage, Path]]:
    """Ground truth beside detections for every image of the set; each with the file it was drawn to.

    Args:
        evaluation: the detections and their metrics.
        dataset: the ground truth.
        folder: where the images go.
        recommended: draw each class from its score threshold of the best F1, not from one fixed score.
    """
    thresholds = np.full(len(dataset.class_names), FALLBACK_SCORE)
    if recommended:
        thresholds = score_thresholds(evaluation.result)
    folder.mkdir(parents=True, exist_ok=True)
    names, drawn = dataset.class_names, []
    pairs = list(pair_images(dataset, evaluation.table, thresholds))
    for paired, stem in zip(pairs, output_stems(paired.record.path.stem for paired in pairs)):
        record = paired.record
        image = read_rgb(record.path)
        truth = draw_boxes(image, record.boxes, record.classes, names)
        found = draw_boxes(image, paired.boxes, paired.classes, names, paired.scores)
        titles = (f"ground truth: {len(record.boxes)}", f"detections: {len(paired.boxes)}")
        target = folder / f"{stem}.jpg"
        write_image(target, side_by_side(truth, found, titles))
        drawn.append((paired, target))
    get_logger().info("images of the detections: %s", folder)
    return drawn
