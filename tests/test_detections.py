"""Detections of a whole set: order, padding, bounded queues, work beside the network."""

import threading
from pathlib import Path

import numpy as np
import pytest

from src.data_loader import EvalBatch
from src.detect import detections as module
from src.detect.detections import DETECTION, detect_set, to_table
from src.detect.postprocess import Detections, PostprocessOptions
from src.detect.predictions import DecodedMaps
from src.transforms import ResizeGeometry
from src.yolo_dataset import ImageRecord

OPTIONS = PostprocessOptions(score_threshold=0.1)
BATCH, SIDE = 2, 32


def batches(count, sizes=(64, 128)):
    """A loader of blank images that carry their number in the first pixel."""
    nothing = np.zeros((0, 4), np.float32)
    for start in range(0, count, BATCH):
        ids = list(range(start, min(start + BATCH, count)))
        padded = ids + [ids[-1]] * (BATCH - len(ids))
        images = np.zeros((BATCH, 3, SIDE, SIDE), np.uint8)
        images[:, 0, 0, 0] = padded
        records = [
            ImageRecord(i, Path(f"{i}.png"), *sizes, nothing, np.zeros(0, np.int32), nothing) for i in padded
        ]
        geometry = [ResizeGeometry(SIDE / sizes[0], SIDE / sizes[1])] * BATCH
        yield EvalBatch(images, records, geometry, len(ids))


def detect(images):
    """One box an image in the middle; its score tells which image it was."""
    maps = [np.zeros((len(images), side, side, 3, 7), np.float32) for side in (1, 2, 4)]
    maps[1][:, 1, 0, 2] = (0.5, 0.5, 0.25, 0.5, 1.0, 0.05, 0.0)
    maps[1][:, 1, 0, 2, 6] = 0.2 + images[:, 0, 0, 0] / 200
    return DecodedMaps(maps, (SIDE, SIDE))


def test_images_come_in_order_without_the_padding_and_in_their_own_pixels():
    seen, ids, scores = [], [], []
    for batch, found in detect_set(detect, batches(7), OPTIONS, seen.append):
        assert len(found) == batch.valid
        ids += batch.image_ids
        scores += [float(entry.scores[0]) for entry in found]
        for entry in found:
            assert entry.classes.tolist() == [1]
            np.testing.assert_allclose(entry.boxes, [[24, 32, 40, 96]], atol=1e-4)
    assert ids == list(range(7)) and sum(seen) == 7
    np.testing.assert_allclose(scores, 0.2 + np.arange(7) / 200, atol=1e-6)


def test_the_network_goes_on_while_detections_are_worked_out():
    """Post-processing of the first batch waits for the network's second one: alone in a row it would hang."""
    second = threading.Event()

    class Waiting(DecodedMaps):
        def detections(self, *args):
            assert second.wait(timeout=10)
            return super().detections(*args)

    def counting(images):
        if images[0, 0, 0, 0] == BATCH:
            second.set()
        return Waiting(detect(images).maps, (SIDE, SIDE))

    assert sum(batch.valid for batch, _ in detect_set(counting, batches(6), OPTIONS)) == 6


def test_batches_in_memory_are_bounded():
    """However slow the consumer, the network is only a few batches ahead of it."""
    predicted = 0

    def counting(images):
        nonlocal predicted
        predicted += 1
        return detect(images)

    for number, _ in enumerate(detect_set(counting, batches(60), OPTIONS)):
        assert predicted <= number + 1 + module._BATCHES_BEHIND
    assert predicted == 30


def test_an_error_in_post_processing_reaches_the_caller():
    class Broken:
        def detections(self, *_):
            raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError, match="here"):
        list(detect_set(lambda _: Broken(), batches(8), OPTIONS))


def test_leaving_early_ends_the_thread():
    found = detect_set(detect, batches(60), OPTIONS)
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("postprocess")]


def test_table_has_coco_boxes_and_category_ids():
    found = Detections(
        np.array([[10, 20, 40, 80], [0, 0, 1, 2]], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([1, 0]),
    )
    table = to_table(12, found, (5, 90))
    assert table.dtype == DETECTION
    assert table["bbox"].tolist() == [[10, 20, 30, 60], [0, 0, 1, 2]]
    assert table["category_id"].tolist() == [90, 5]
    assert table["image_id"].tolist() == [12, 12]
    assert len(to_table(1, Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int32)), (5,))) == 0
