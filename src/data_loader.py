"""Batches for training and evaluation: images are read and prepared by threads, ahead of the network.

OpenCV, Pillow and numpy work outside Python's global lock: a sample of the DOTA recipe holds it for 1.1 to 1.5 of its
22 ms (benchmarks/data_path.py), so one process can give over 600 a second where a card needs 32 to 62. So threads
suffice and nothing is copied between processes. Every random draw is a function of (seed, epoch, sample), so batches
do not depend on the number of threads and a run can go on from any step.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from .base.errors import UserError
from .distributed_sampler import DistributedSampler, shape_for_step
from .imaging.image_io import read_rgb
from .logger import get_logger
from .perspective import PerspectiveAugment
from .transforms import ResizeGeometry, Sample, TrainAugment, mix, stretch_for_eval
from .yolo_dataset import DetectionSet, ImageRecord

BATCHES_AHEAD = 3  # bounds the memory of prepared batches
_MIXUP_BETA = 8.0  # the share of a blend is drawn from beta(8, 8): near a half


@dataclass(frozen=True)
class TrainBatch:
    """images (N, 3, H, W) uint8 RGB; boxes (N, rows, 5) float32 x1 y1 x2 y2 class, padded with zeros."""

    images: np.ndarray
    boxes: np.ndarray
    paths: list[Path]


@dataclass(frozen=True)
class EvalBatch:
    """images (N, 3, H, W) uint8 RGB, always the full batch; only the first `valid` count.

    `records` are `ImageRecord`s, or what else a loader reads that has id, width and height.
    `geometry[i].inverse` maps boxes of the input to image i; `image_wh` (N, 2) int is its size.
    """

    images: np.ndarray
    records: list
    geometry: list[ResizeGeometry]
    valid: int

    @property
    def image_ids(self) -> list[int]:
        """COCO ids of the images that count."""
        return [record.id for record in self.records[: self.valid]]

    @property
    def image_wh(self) -> np.ndarray:
        """(valid, 2) width and height of the images that count."""
        return np.array([(record.width, record.height) for record in self.records[: self.valid]])


class EvalSample(NamedTuple):
    """What is read (`id`, `path`, `width`, `height`), its pixels in the input's size (H, W, 3), and the geometry."""

    record: Any
    image: np.ndarray
    geometry: ResizeGeometry


class TrainLoader:
    """Augmented batches of a detection set.

    Args:
        dataset: what to read.
        sampler: this rank's order of the samples in each epoch.
        augment: the random changes.
        batch_size: images a batch; an incomplete last batch is left out.
        shapes: input (height, width) shapes; one is drawn every `resize_rate` steps.
        max_box: most rows of the boxes, fewer where the set cannot fill them; of more objects in an image so
            many are drawn, with one warning.
        seed: of everything that is drawn.
        workers: threads.

    Raises:
        UserError: no objects at all, or fewer samples than a batch.
    """

    def __init__(
        self,
        dataset: DetectionSet,
        sampler: DistributedSampler,
        augment: TrainAugment | PerspectiveAugment,
        *,
        batch_size: int,
        shapes: list[tuple[int, int]],
        resize_rate: int,
        max_box: int,
        seed: int,
        workers: int,
    ):
        if not any(len(record.boxes) for record in dataset.records):
            raise UserError(
                f"{dataset.describe()}: nothing to learn from; check that its annotations are those of its images"
            )
        if len(sampler) < batch_size:
            raise UserError(
                f"{dataset.ann_file}: {len(sampler)} images for each device, per_batch_size is {batch_size}; "
                "lower per_batch_size or add images"
            )
        self.dataset, self.sampler, self.augment = dataset, sampler, augment
        self.batch_size, self.shapes, self.resize_rate = batch_size, shapes, resize_rate
        self.max_box, self.seed, self.workers = max_box, seed, workers
        self.dropped_boxes = 0
        self.rows = min(max_box, self._most_objects())

    def _most_objects(self) -> int:
        """Objects that a training image can hold at most. Time of the loss follows the rows of its boxes, and
        one number for the whole run, the same on all ranks, keeps it at one graph for each input shape."""
        most = max(len(record.boxes) for record in self.dataset.records)
        return most * (4 if self.augment.mosaic else 1) * (2 if self.augment.mixup else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of this rank in an epoch."""
        return len(self.sampler) // self.batch_size

    def shape(self, epoch: int, step: int) -> tuple[int, int]:
        """Input (height, width) of a step of an epoch."""
        return shape_for_step(self.shapes, self.resize_rate, self.seed, epoch, step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[TrainBatch]:
        """The batches of an epoch, from a step on.

        Raises:
            UserError: an image cannot be read; names it.
        """
        indices = self.sampler.indices(epoch)

        def jobs() -> Iterator[list[tuple]]:
            for step in range(start_step, self.steps_per_epoch):
                rows = slice(step * self.batch_size, (step + 1) * self.batch_size)
                yield [(int(index), epoch, self.shape(epoch, step)) for index in indices[rows]]

        dropped = self.dropped_boxes
        yield from prefetch(jobs(), self._sample, self._collate, self.workers)
        if self.dropped_boxes > dropped:
            get_logger().info(
                "max_box=%d: %d objects of this epoch's training images were dropped",
                self.max_box, self.dropped_boxes - dropped,
            )  # fmt: skip

    def _sample(self, index: int, epoch: int, input_hw: tuple[int, int]) -> tuple[Sample, int, Path]:
        """What training sees of a record in an epoch, how many objects were left out of it, and its path."""
        rng = np.random.default_rng((self.seed, epoch, index))
        sample = self._joined(rng, index, input_hw)
        if _happens(rng, self.augment.mixup):
            other = self._joined(rng, int(rng.integers(len(self.dataset.records))), input_hw)
            sample = mix(sample, other, rng.beta(_MIXUP_BETA, _MIXUP_BETA))
        image, boxes, classes = self.augment.finish(rng, sample)
        surplus = max(0, len(boxes) - self.max_box)
        if surplus:
            chosen = rng.permutation(len(boxes))[: self.max_box]
            boxes, classes = boxes[chosen], classes[chosen]
        return (image, boxes, classes), surplus, self.dataset.records[index].path

    def _joined(self, rng: np.random.Generator, index: int, input_hw: tuple[int, int]) -> Sample:
        """The image of a record in the input, alone or in a mosaic with three drawn ones."""
        numbers = [index]
        if _happens(rng, self.augment.mosaic):
            numbers += rng.integers(len(self.dataset.records), size=3).tolist()
        records = [self.dataset.records[number] for number in numbers]
        samples = []
        for record in records:
            with naming_image(record.path):
                image = read_rgb(record.path, (record.width, record.height))
            samples.append((image, record.boxes, record.classes))
        with naming_image(", ".join(str(record.path) for record in records)):
            return self.augment.join(rng, samples, input_hw)

    def _collate(self, samples) -> TrainBatch:
        boxes = np.zeros((len(samples), self.rows, 5), np.float32)
        for row, ((_, found, classes), surplus, path) in enumerate(samples):
            if surplus:
                self._warn_dropped(surplus, path)
            boxes[row, : len(found), :4] = found
            boxes[row, : len(found), 4] = classes
        return TrainBatch(
            _stacked([sample[0] for sample, *_ in samples]), boxes, [path for *_, path in samples]
        )

    def _warn_dropped(self, count: int, path: Path) -> None:
        if not self.dropped_boxes:
            get_logger().warning(
                "%s: more than max_box=%d objects in a training image, so many are drawn and the rest is dropped; "
                "raise max_box. Further ones are counted, not shown",
                path,
                self.max_box,
            )
        self.dropped_boxes += count


class EvalLoader:
    """Resized batches of a detection set, in the order of its records.

    Args:
        dataset: what to read.
        input_hw: (height, width) of the network's input.
        batch_size: images a batch; the last one is filled by repeats, so that its shape does not change.
        indices: records to take; all by default.
        resize: from image and input_hw to the input and its geometry (`src.detect.letterbox.eval_resize`).
        workers: threads.
    """

    def __init__(
        self,
        dataset: DetectionSet,
        *,
        input_hw: tuple[int, int],
        batch_size: int,
        indices: Iterable[int] | None = None,
        resize: Callable = stretch_for_eval,
        workers: int = 2,
    ):
        self.dataset, self.input_hw, self.batch_size = dataset, input_hw, batch_size
        self.indices = list(range(len(dataset.records)) if indices is None else indices)
        self.resize = resize
        self.workers = workers

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        records = [self.dataset.records[index] for index in self.indices]
        return eval_batches(records, self._sample, self.batch_size, self.workers)

    def _sample(self, record: ImageRecord) -> EvalSample:
        with naming_image(record.path):
            image = read_rgb(record.path, (record.width, record.height))
            return EvalSample(record, *self.resize(image, self.input_hw))


def eval_batches(
    items: Sequence,
    sample: Callable[[Any], Any],
    batch_size: int,
    workers: int,
    left_out: Callable[[Any], None] = lambda reason: None,
) -> Iterator[EvalBatch]:
    """Full batches of what `sample` makes of each item, in order, by threads ahead of the network.

    Args:
        items: what to read.
        sample: gives an `EvalSample`, or anything else for an item that is left out.
        batch_size: images a batch; the last one is filled by repeats, so that its shape does not change.
        workers: threads.
        left_out: called with what `sample` gave instead, in the order of the items.
    """
    jobs = (
        [(item,) for item in items[start : start + batch_size]] for start in range(0, len(items), batch_size)
    )
    waiting: list[EvalSample] = []
    for results in prefetch(jobs, sample, list, workers):
        for result in results:
            if isinstance(result, EvalSample):
                waiting.append(result)
            else:
                left_out(result)
        if len(waiting) >= batch_size:
            yield _eval_batch(waiting[:batch_size], batch_size)
            waiting = waiting[batch_size:]
    if waiting:
        yield _eval_batch(waiting, batch_size)


def _eval_batch(samples: list[EvalSample], batch_size: int) -> EvalBatch:
    valid = len(samples)
    records, images, geometry = zip(*samples, *[samples[-1]] * (batch_size - valid))
    return EvalBatch(_stacked(images), list(records), list(geometry), valid)


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images (H, W, 3) uint8 of one size as (N, 3, H, W)."""
    batch = np.empty((len(images), 3, *images[0].shape[:2]), np.uint8)
    for image, planes in zip(images, batch):
        planes_first(image, planes)
    return batch


def _happens(rng: np.random.Generator, probability: float) -> bool:
    """Whether an event of this probability happens; nothing is drawn where the probability is 0 or 1."""
    return probability >= 1 or (probability > 0 and rng.random() < probability)


@contextmanager
def naming_image(path: Path | str) -> Iterator[None]:
    """An unforeseen error in a thread says which image it was about."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); look at the disk or the mount"
        ) from error
    except Exception as error:
        raise RuntimeError(f"{path}: {type(error).__name__}: {error}") from error


def planes_first(image: np.ndarray, out: np.ndarray) -> None:
    """Copy (H, W, 3) to (3, H, W), plane by plane (faster than a transposed copy)."""
    for channel in range(3):
        cv2.extractChannel(image, channel, out[channel])


def prefetch(jobs: Iterator[list[tuple]], work: Callable, collate: Callable, workers: int) -> Iterator:
    """`collate([work(*arguments) for each of a job])` for each job, in order, by threads, some jobs ahead."""
    cv2.setNumThreads(1)  # the threads below are the parallelism; more would fight over the cores
    pool = ThreadPoolExecutor(workers, thread_name_prefix="data")
    waiting: deque[list[Future]] = deque()

    def submit_next() -> None:
        job = next(jobs, None)
        if job is not None:
            waiting.append([pool.submit(work, *arguments) for arguments in job])

    try:
        for _ in range(BATCHES_AHEAD):
            submit_next()
        while waiting:
            results = [future.result() for future in waiting.popleft()]
            submit_next()
            yield collate(results)
    finally:  # also when the consumer stops early or an image is bad
        pool.shutdown(wait=True, cancel_futures=True)
