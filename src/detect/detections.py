"""Detections of a whole set: a compact table, collected while the network runs, written as COCO JSON."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write
from ..data_loader import EvalBatch
from ..imaging.boxes import to_corner
from .postprocess import Detections, PostprocessOptions
from .predictions import Prediction

# One detection; bbox is x y width height in the image's pixels, as COCO writes it. 32 bytes.
DETECTION = np.dtype([("image_id", "i8"), ("bbox", "f4", 4), ("score", "f4"), ("category_id", "i4")])
_JSON_ROW = '{"image_id": %d, "category_id": %d, "bbox": [%.3f, %.3f, %.3f, %.3f], "score": %.9g}'
_ROWS_AT_ONCE = 10_000
_BATCHES_BEHIND = 2  # network outputs that wait for post-processing; bounds the memory


def detect_set(
    detect: Callable[[np.ndarray], Prediction],
    loader: Iterable[EvalBatch],
    options: PostprocessOptions,
    progress: Callable[[int], None] = lambda images: None,
) -> Iterator[tuple[EvalBatch, list[Detections]]]:
    """Detections of each batch of a loader, in its order.

    Reading and post-processing run in threads beside the network.

    Args:
        detect: of a `Backend`.
        loader: the images.
        options: thresholds.
        progress: called with the number of images that a batch adds.
    """
    waiting: deque[tuple[EvalBatch, Future]] = deque()

    def finish() -> tuple[EvalBatch, list[Detections]]:
        batch, future = waiting.popleft()
        progress(batch.valid)
        return batch, future.result()

    with ThreadPoolExecutor(1, thread_name_prefix="postprocess") as pool:
        for batch in loader:
            found = detect(batch.images)
            waiting.append((batch, pool.submit(found.detections, batch.image_wh, batch.geometry, options)))
            if len(waiting) > _BATCHES_BEHIND:
                yield finish()
        while waiting:
            yield finish()


def to_table(image_id: int, found: Detections, category_ids: tuple[int, ...]) -> np.ndarray:
    """Detections of an image as rows of `DETECTION`, with COCO's category ids."""
    table = np.empty(len(found), DETECTION)
    table["image_id"] = image_id
    table["bbox"] = to_corner(found.boxes)
    table["score"] = found.scores
    table["category_id"] = np.asarray(category_ids, np.int32)[found.classes]
    return table


def written_boxes(table: np.ndarray) -> np.ndarray:
    """The (n, 4) boxes as the JSON file gives them: thousandths of a pixel. Metrics are of these."""
    return np.round(table["bbox"].astype(np.float64), 3)


def write_coco_json(path: Path, table: np.ndarray) -> None:
    """Write detections as a COCO result file, whole or not at all.

    Raises:
        UserError: the disk is full or the folder cannot be written to.
    """
    boxes = written_boxes(table)
    with atomic_write(path) as handle:
        handle.write("[")
        separator = "\n"
        for start in range(0, len(table), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            part = table[rows]
            columns = [part["image_id"], part["category_id"], *boxes[rows].T, part["score"]]
            lines = ",\n".join(_JSON_ROW % row for row in zip(*(column.tolist() for column in columns)))
            handle.write(separator + lines)
            separator = ",\n"
        handle.write("\n]\n")
