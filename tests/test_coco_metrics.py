"""COCO metrics against pycocotools on the written file, and a case whose AP is known by hand."""

import contextlib
import io
import json
import re
import tracemalloc

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.base.errors import UserError
from src.detect.detections import DETECTION, write_coco_json
from src.evaluation.coco_metrics import evaluate_coco

NAMES = ("plane", "ship", "tank")
IDS = (1, 2, 7)


def ground_truth(path, boxes, images=1, **extra):
    """boxes: (image_id, category_id, x, y, w, h) rows."""
    document = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 600, "height": 600} for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(IDS, NAMES)],
        "annotations": [
            {
                "id": k,
                "image_id": i,
                "category_id": c,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
                **extra,
            }
            for k, (i, c, x, y, w, h) in enumerate(boxes, start=1)
        ],
    }
    path.write_text(json.dumps(document))
    return path


def detections(rows):
    table = np.zeros(len(rows), DETECTION)
    for entry, (image_id, category_id, x, y, w, h, score) in zip(table, rows):
        entry["image_id"], entry["category_id"], entry["bbox"], entry["score"] = (
            image_id, category_id, (x, y, w, h), score,
        )  # fmt: skip
    return table


def random_case(tmp_path, seed, images=40, crowded=True):
    rng = np.random.default_rng(seed)
    boxes, found = [], []
    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 130 if crowded and image_id == 1 else 8)):
            category = int(rng.choice(IDS[:2]))
            x, y, w, h = (round(float(v), 2) for v in (*rng.uniform(0, 500, 2), *rng.uniform(5, 120, 2)))
            boxes.append((image_id, category, x, y, w, h))
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 3, 4)
                guess = category if rng.random() < 0.9 else int(rng.choice(IDS))
                found.append((image_id, guess, x + shift[0], y + shift[1], abs(w + shift[2]), abs(h + shift[3]),
                              rng.random()))  # fmt: skip
    path = ground_truth(tmp_path / "gt.json", boxes, images)
    document = json.loads(path.read_text())
    for annotation in document["annotations"][::9]:
        annotation["iscrowd"] = 1
    path.write_text(json.dumps(document))
    return path, detections(found)


def by_pycocotools(ann_file, json_file, image_ids=None, max_detections=None):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        evaluation = COCOeval(truth, truth.loadRes(str(json_file)), "bbox")
        if image_ids:
            evaluation.params.imgIds = image_ids
        if max_detections:
            evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    if max_detections:
        return evaluation, ""  # pycocotools summarises 100 detections only
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    return evaluation, printed.getvalue()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_twelve_lines_equal_pycocotools_on_the_written_file(tmp_path, seed):
    ann_file, table = random_case(tmp_path, seed)
    write_coco_json(tmp_path / "found.json", table)
    evaluation, printed = by_pycocotools(ann_file, tmp_path / "found.json")
    ours = evaluate_coco(ann_file, table, NAMES, IDS)
    assert ours.lines.splitlines() == printed.splitlines()
    assert 0.1 < ours.stats[0] < 0.9  # the case says something
    np.testing.assert_allclose(ours.stats, evaluation.stats, rtol=0, atol=1e-12)
    for position, entry in enumerate(ours.classes):
        expected = evaluation.eval["precision"][:, :, position, 0, 2]
        assert entry.ap == pytest.approx(expected[expected > -1].mean() if (expected > -1).any() else -1)


@pytest.mark.parametrize("seed", range(6))
def test_crowds_ties_and_area_ranges_equal_pycocotools(tmp_path, seed):
    """Many objects on few places, few scores, so that every rule of the matching is met."""
    rng = np.random.default_rng(100 + seed)
    places = [
        (x, y, w, h) for x in (0, 4, 9, 60) for y in (0, 5, 70) for w in (30, 32, 98) for h in (31, 33, 95)
    ]
    boxes = [
        (i, int(rng.choice(IDS)), *places[rng.integers(len(places))]) for i in rng.integers(1, 7, 60).tolist()
    ]
    ann_file = ground_truth(tmp_path / "gt.json", boxes, images=6)
    document = json.loads(ann_file.read_text())
    for annotation in document["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.15)
        annotation["id"] -= seed % 2  # an id of 0 is never matched in pycocotools
    ann_file.write_text(json.dumps(document))
    found = detections([
        (i, int(rng.choice(IDS)), *places[rng.integers(len(places))], rng.integers(1, 6) / 6)
        for i in rng.integers(1, 7, 300)
    ])  # fmt: skip
    write_coco_json(tmp_path / "found.json", found)
    for image_ids in (None, [2, 3, 5]):
        evaluation, printed = by_pycocotools(ann_file, tmp_path / "found.json", image_ids)
        ours = evaluate_coco(ann_file, found, NAMES, IDS, image_ids=image_ids, max_detections=15)
        assert ours.lines.splitlines() == printed.splitlines()
        np.testing.assert_array_equal(ours.stats, evaluation.stats)
        assert len(set(ours.stats)) > 8 and ours.stats[0] > 0.05  # the case says something
        crowded, _ = by_pycocotools(ann_file, tmp_path / "found.json", image_ids, max_detections=15)
        precision = crowded.eval["precision"][0, :, :, 0, -1]
        assert ours.ap50_all == precision[precision > -1].mean()


def test_known_average_precision(tmp_path):
    """Three objects; found: right, wrong, right. Precision 1 up to recall 1/3, 2/3 up to recall 2/3, then 0.

    With COCO's 101 recall points 0, 0.01, ..., 1: 34 points at 1 and 33 at 2/3, so AP = (34 + 22) / 101.
    """
    boxes = [(1, 1, 10, 10, 50, 50), (1, 1, 200, 10, 50, 50), (1, 1, 400, 10, 50, 50)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes)
    table = detections(
        [(1, 1, 10, 10, 50, 50, 0.9), (1, 1, 300, 300, 50, 50, 0.8), (1, 1, 200, 10, 50, 50, 0.7)]
    )
    result = evaluate_coco(ann_file, table, NAMES, IDS)
    assert result.stats[0] == pytest.approx(56 / 101, abs=1e-9)
    assert result.classes[0].ap50 == pytest.approx(56 / 101, abs=1e-9)
    assert result.classes[0].recall == pytest.approx(2 / 3)
    # Thresholds 0.9, 0.8, 0.7 give F1 2/4, 2/5 and 4/6.
    assert result.classes[0].best_f1 == pytest.approx(4 / 6)
    assert result.classes[0].best_threshold == pytest.approx(0.7)
    assert result.classes[1].ap == -1
    assert re.search(r"^ship +0  no ground truth: not in the mean$", result.table(), re.MULTILINE)


def test_without_an_area_the_box_gives_it(tmp_path):
    """COCO's bounds of small and large are 32 x 32 and 96 x 96 pixels: 20 x 40 is small, 30 x 50 is not."""
    boxes = [(1, 1, 10, 10, 20, 40), (1, 1, 100, 10, 30, 50)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes)
    document = json.loads(ann_file.read_text())
    for annotation in document["annotations"]:
        del annotation["area"]
    ann_file.write_text(json.dumps(document))
    stats = evaluate_coco(ann_file, detections([(*boxes[0], 0.9)]), NAMES, IDS).stats
    assert stats[3:6] == pytest.approx((1, 0, -1))


def test_perfect_and_empty_detections(tmp_path):
    boxes = [(1, 1, 10, 10, 50, 50), (2, 7, 20, 30, 40, 40)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes, images=2)
    perfect = detections([(*box, 0.9) for box in boxes])
    assert evaluate_coco(ann_file, perfect, NAMES, IDS).stats[:3] == pytest.approx((1, 1, 1))
    nothing = evaluate_coco(ann_file, detections([]), NAMES, IDS)
    assert nothing.stats[0] == 0 and nothing.ap50_all == 0
    assert nothing.classes[0].recall == 0 and nothing.classes[0].best_f1 == 0


def test_crowded_pictures_have_a_line_of_their_own(tmp_path):
    """200 objects of a class in one image: COCO counts 100 detections, the other line all of them."""
    boxes = [(1, 1, 25 * (k % 20), 50 * (k // 20), 20, 20) for k in range(200)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes)
    found = detections([(*box, 1 - k / 1000) for k, box in enumerate(boxes)])
    result = evaluate_coco(ann_file, found, NAMES, IDS)
    assert result.stats[1] == pytest.approx(51 / 101)  # recall stops at 0.5
    assert result.ap50_all == pytest.approx(1.0)


def test_only_some_images(tmp_path):
    boxes = [(1, 1, 10, 10, 50, 50), (2, 1, 20, 30, 40, 40)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes, images=2)
    found = detections([(*boxes[0], 0.9)])
    assert evaluate_coco(ann_file, found, NAMES, IDS, image_ids=[1]).stats[0] == pytest.approx(1.0)
    assert evaluate_coco(ann_file, found, NAMES, IDS).stats[0] == pytest.approx(51 / 101)


def test_written_file_is_json_and_whole_or_absent(tmp_path, monkeypatch):
    table = detections([(3, 7, 1.23456, 2, 3, 4, 0.123456789), (1, 1, 0, 0, 1, 1, 1e-3)])
    write_coco_json(tmp_path / "found.json", table)
    rows = json.loads((tmp_path / "found.json").read_text())
    assert rows[0]["bbox"] == [1.235, 2.0, 3.0, 4.0] and rows[0]["image_id"] == 3
    assert np.float32(rows[0]["score"]) == table["score"][0]
    before = (tmp_path / "found.json").read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        write_coco_json(tmp_path / "found.json", table[:1])
    assert (tmp_path / "found.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_annotations_are_named(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "bad.json"))):
        evaluate_coco(tmp_path / "bad.json", detections([]), NAMES, IDS)


def test_best_threshold_does_not_part_equal_scores(tmp_path):
    """One right and one wrong detection at 0.5: F1 at 0.5 is 2/3, not 1, in whatever order they come."""
    ann_file = ground_truth(tmp_path / "gt.json", [(1, 1, 10, 10, 50, 50)])
    rows = [(1, 1, 10, 10, 50, 50, 0.5), (1, 1, 300, 10, 50, 50, 0.5)]
    for found in (rows, rows[::-1]):
        assert evaluate_coco(ann_file, detections(found), NAMES, IDS).classes[0].best_f1 == pytest.approx(
            2 / 3
        )


def test_best_threshold_parts_only_scores_that_differ(tmp_path):
    """Right at 0.9, right and wrong at 0.5: 2/3 at 0.9, 4/5 at 0.5. The second overlaps by 13/25, enough at 0.5."""
    ann_file = ground_truth(tmp_path / "gt.json", [(1, 1, 10, 10, 50, 50), (1, 1, 200, 10, 50, 50)])
    rows = [(1, 1, 10, 10, 50, 50, 0.9), (1, 1, 200, 10, 26, 50, 0.5), (1, 1, 400, 10, 50, 50, 0.5)]
    for found in (rows, rows[::-1]):
        result = evaluate_coco(ann_file, detections(found), NAMES, IDS).classes[0]
        assert result.best_f1 == pytest.approx(4 / 5)
        assert result.best_threshold == pytest.approx(0.5)


def test_memory_is_a_few_bytes_a_detection(tmp_path):
    """A hundred thousand detections of one class: far less than a dictionary (over 1 kB) for each."""
    ann_file = ground_truth(tmp_path / "gt.json", [(i, 1, 10, 10, 50, 50) for i in range(1, 101)], images=100)
    rng = np.random.default_rng(0)
    table = np.zeros(100_000, DETECTION)
    table["image_id"] = np.repeat(np.arange(1, 101), 1000)
    table["category_id"] = 1
    table["bbox"] = rng.uniform(1, 300, (len(table), 4))
    table["score"] = rng.random(len(table))
    tracemalloc.start()
    evaluate_coco(ann_file, table, NAMES, IDS)
    write_coco_json(tmp_path / "found.json", table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(table) * 300
    assert len(json.loads((tmp_path / "found.json").read_text())) == len(table)
