"""A whole evaluation with a network that knows the answers: metrics, files and images must say so."""

import csv
import json
import logging
from contextlib import redirect_stdout
from io import StringIO

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.detect.detections import write_coco_json
from src.detect.predictions import MapBackend
from src.evaluation.analysis import PairedImage
from src.evaluation.coco_metrics import ClassResult, CocoResult, evaluate_coco
from src.evaluation.recommendation import kinds_of, statistics_rows, threshold_rows, write_recommendation
from src.evaluation.session import evaluate_set, load_validation_set, write_images
from src.runtime.device import Runtime
from src.transforms import letterbox, stretch_for_eval
from src.yolo_dataset import ImageRecord
from tests.tiny import tiny_config, write_tiles

SIDE = 96


class Oracle(MapBackend):
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
    assert evaluation.result.text().startswith(printed.getvalue().rstrip("\n"))
    assert 0.3 < evaluation.result.stats[0] < 0.9
    assert "Processing... 100.00% " in caplog.text and str(evaluation.json_file) in caplog.text


def test_capped_images_are_counted(config, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="yolov4"):
        logging.getLogger("yolov4").addHandler(caplog.handler)
        _, evaluation = evaluate(config.replace(max_detections=2), tmp_path / "run", missed=0)
        logging.getLogger("yolov4").removeHandler(caplog.handler)
    assert "5 of 5 images have more than max_detections=2" in caplog.text
    assert len(evaluation.table) == 10


def test_images_of_ground_truth_beside_detections(config, tmp_path):
    dataset, evaluation = evaluate(config, tmp_path / "run", missed=0)
    write_images(evaluation, dataset, tmp_path / "pictures", recommended=True)
    written = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in written] == [f"{number}.jpg" for number in range(1, 6)]
    assert cv2.imread(str(written[0])).shape == (120 + 24, 2 * 150 + 6, 3)


def test_recommended_scores_as_tables_and_images_sorted(config, tmp_path):
    """Of each of five images two ships and a plane, the first ship is not found: no false alarms, a miss in each."""
    dataset, evaluation = evaluate(config, tmp_path / "run", missed=1)
    drawn = write_images(evaluation, dataset, tmp_path / "pictures", recommended=True)
    folder = tmp_path / "recommend_result"
    for _ in range(2):  # a second time replaces the first
        write_recommendation(folder, evaluation.result, drawn)
    stats = [f"{round(evaluation.result.stats[place], 3)}" for place in (0, 1, 2, 6, 7, 8)]
    assert (folder / "statistics.csv").read_text().split("\n") == [
        "ap@0.5:0.95,ap@0.5,ap@0.75,ar@0.5:0.95,ar@0.5,ar@0.75", ",".join(stats), "",
        "class_name,tp_num,gt_num,dt_num,precision,recall",
        "ship,5,10,5,1.0,0.5", "plane,5,5,5,1.0,1.0", "all,10,15,10,1.0,0.667", "",
    ]  # fmt: skip
    with (folder / "best_threshold.csv").open() as handle:
        ship, plane = csv.DictReader(handle)
    assert list(ship) == ["cat_name", "best_f1", "best_precision", "best_recall", "best_score"]
    assert [ship["cat_name"], plane["cat_name"]] == ["ship", "plane"]
    values = {name: [float(row[name]) for row in (ship, plane)] for name in list(ship)[1:]}
    assert values["best_f1"] == pytest.approx([2 * 5 / (5 + 10), 1])
    assert values["best_precision"] == [1, 1] and values["best_recall"] == [0.5, 1]
    assert values["best_score"] == pytest.approx([0.81, 0.81])
    found = {kind.name: len(list(kind.iterdir())) for kind in folder.iterdir() if kind.is_dir()}
    assert found == {"ok_images": 0, "precision_ng_images": 0, "recall_ng_images": 5}
    assert (folder / "recall_ng_images" / "1.jpg").read_bytes() == (
        tmp_path / "pictures" / "1.jpg"
    ).read_bytes()


def test_counts_are_those_of_pycocotools(config, tmp_path):
    """Recall at IoU 0.5 of a random table, and so the number of right detections."""
    dataset, evaluation = evaluate(config, tmp_path / "run", missed=0)
    table = evaluation.table.copy()
    rng = np.random.default_rng(3)
    table["bbox"] += rng.normal(0, 6, table["bbox"].shape)
    table["score"] = rng.uniform(0, 1, len(table))
    write_coco_json(tmp_path / "found.json", table)
    result = evaluate_coco(dataset.ann_file, table, dataset.class_names, dataset.category_ids)
    with redirect_stdout(StringIO()):
        truth = COCO(str(dataset.ann_file))
        theirs = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        theirs.params.iouThrs, theirs.params.maxDets = np.array([0.5]), [100]
        theirs.params.areaRng, theirs.params.areaRngLbl = [[0, 1e10]], ["all"]
        theirs.evaluate()
        theirs.accumulate()
    recall = theirs.eval["recall"][0, :, 0, 0]
    rows = statistics_rows(result)[4:]
    assert [row[5] for row in rows[:2]] == pytest.approx(recall, abs=5e-4) and 0.2 < recall.min() < 0.95
    assert [row[1] for row in rows] == [*np.round(recall * [10, 5]), np.round(recall @ [10, 5])]
    assert [row[3] for row in rows] == [10, 5, 15]


@pytest.mark.parametrize(
    ("classes", "object_of", "kinds"),
    [
        ([0, 1], [0, 1], ["ok_images"]),
        ([0, 1, 1], [0, 1, -1], ["precision_ng_images"]),
        ([0, 1, 1], [0, 1, -2], ["ok_images"]),  # it lies on an ignored region
        ([0], [0], ["recall_ng_images"]),
        (
            [0, 0],
            [0, 1],
            ["precision_ng_images", "recall_ng_images"],
        ),  # the second is taken for another class
        ([], [], ["recall_ng_images"]),
    ],
)
def test_where_a_image_is_sorted(classes, object_of, kinds):
    record = ImageRecord(1, "a.png", 9, 9, np.zeros((2, 4), np.float32), np.array([0, 1]), np.zeros((0, 4)))
    count = len(classes)
    image = PairedImage(
        record, np.zeros((count, 4)), np.array(classes, int), np.zeros(count), np.array(object_of, int)
    )
    assert kinds_of(image) == kinds


def test_statistics_without_detections_or_objects():
    classes = (
        ClassResult("ship", 4, 0.0, 0.0, 0.0, 0.0, 0.0, recall50=0.0, detections=0),
        ClassResult("plane", 0, -1.0, -1.0, -1.0, 0.0, 0.0, recall50=-1.0, detections=3),
        ClassResult("tank", 0, -1.0, -1.0, -1.0, 0.0, 0.0, recall50=-1.0, detections=0),
    )
    result = CocoResult((0.0,) * 12, "", 0.0, 1000, classes)
    assert statistics_rows(result)[4:] == [
        ["ship", 0, 4, 0, 0.0, 0.0],
        ["plane", 0, 0, 3, 0.0, -1.0],
        ["tank", 0, 0, 0, -1.0, -1.0],
        ["all", 0, 4, 3, 0.0, 0.0],
    ]
    assert threshold_rows(result)[1:] == [["ship", 0.0, 0.0, 0.0, 0.3]]
