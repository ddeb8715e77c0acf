"""A whole evaluation with a network that knows the answers: metrics, files and pictures must say so."""

import json
import logging
from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.evaluation.session import evaluate_set, load_validation_set, write_pictures
from src.runtime import Runtime
from src.transforms import letterbox, stretch_for_eval
from tests.tiny import tiny_config, write_tiles

SIDE = 96


class Oracle:
    """Decoded maps with the objects of the records, in the order in which the loader gives them."""

    def __init__(self, records, config, missed=0):
        self.records, self.batch_size, self.missed, self.calls = records, config.eval_batch_size, missed, 0
        self.resize = letterbox if config.letterbox else stretch_for_eval

    def predict(self, images):
        assert images.shape == (self.batch_size, 3, SIDE, SIDE) and images.dtype == np.uint8
        maps = [np.zeros((len(images), side, side, 3, 7), np.float32) for side in (3, 6, 12)]
        start = self.calls * self.batch_size
        self.calls += 1
        for row, record in enumerate(self.records[start : start + self.batch_size]):
            _, geometry = self.resize(np.zeros((record.height, record.width, 3), np.uint8), (SIDE, SIDE))
            for number, (box, label) in enumerate(zip(geometry.forward(record.boxes) / SIDE, record.classes)):
                if number >= self.missed:
                    cell = maps[2][row, number, 0, 0]
                    cell[:5] = (*(box[:2] + box[2:]) / 2, *(box[2:] - box[:2]), 0.9)
                    cell[5 + label] = 0.9
        return maps


@pytest.fixture(params=["", "--letterbox=1"])
def config(request, tmp_path):
    tiles = write_tiles(tmp_path / "set", val=5)
    # The drawn rectangles may lie on each other: no suppression.
    return tiny_config(tiles, tmp_path / "out", "--nms_thresh=1", *filter(None, [request.param]))


def evaluate(config, folder, missed):
    folder.mkdir()
    dataset = load_validation_set(config)
    oracle = Oracle(dataset.records, config, missed)
    return dataset, evaluate_set(oracle, dataset, config, folder, Runtime())


def test_all_objects_found(config, tmp_path):
    _, evaluation = evaluate(config, tmp_path / "run", missed=0)
    assert evaluation.result.stats[0] == pytest.approx(1.0)
    assert [entry.objects for entry in evaluation.result.classes] == [10, 5]
    assert len(evaluation.table) == 15
    assert {row["category_id"] for row in json.loads(evaluation.json_file.read_text())} == {1, 2}


def test_numbers_are_those_of_the_written_file(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="yolov4"):
        logging.getLogger("yolov4").addHandler(caplog.handler)
        dataset, evaluation = evaluate(config, tmp_path / "run", missed=1)
        logging.getLogger("yolov4").removeHandler(caplog.handler)
    with redirect_stdout(StringIO()):
        truth = COCO(str(dataset.ann_file))
        theirs = COCOeval(truth, truth.loadRes(str(evaluation.json_file)), "bbox")
        theirs.evaluate()
        theirs.accumulate()
    with redirect_stdout(StringIO()) as printed:
        theirs.summarize()
    assert evaluation.result.report().startswith(printed.getvalue().rstrip("\n"))
    assert 0.3 < evaluation.result.stats[0] < 0.9
    assert "Processing... 100.00% " in caplog.text and str(evaluation.json_file) in caplog.text


def test_capped_pictures_are_counted(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="yolov4"):
        logging.getLogger("yolov4").addHandler(caplog.handler)
        _, evaluation = evaluate(config.replace(max_detections=2), tmp_path / "run", missed=0)
        logging.getLogger("yolov4").removeHandler(caplog.handler)
    assert "5 of 5 pictures have more than max_detections=2" in caplog.text
    assert len(evaluation.table) == 10


def test_pictures_of_ground_truth_beside_detections(config, tmp_path):
    dataset, evaluation = evaluate(config, tmp_path / "run", missed=0)
    write_pictures(evaluation, dataset, tmp_path / "pictures", recommended=True)
    written = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in written] == [f"{number}.jpg" for number in range(1, 6)]
    assert cv2.imread(str(written[0])).shape == (120 + 24, 2 * 150 + 6, 3)
