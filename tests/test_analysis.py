"""Pairs, confusion matrix and size buckets: by hand, by brute force, and by pycocotools' area ranges."""

import contextlib
import io
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.detect.detections import DETECTION, write_coco_json
from src.evaluation.analysis import confusion_matrix, pair_images, score_thresholds
from src.evaluation.coco_metrics import SIZE_BUCKETS, evaluate_coco
from src.yolo_dataset import DetectionSet, ImageRecord
from tests.test_coco_metrics import IDS, NAMES, detections, ground_truth, random_case


def detection_set(objects, ignored=()):
    """objects: (image, class, x1, y1, x2, y2); ignored: (image, x1, y1, x2, y2)."""
    records = []
    for image in (1, 2):
        rows = [row for row in objects if row[0] == image]
        records.append(
            ImageRecord(
                id=image,
                path=Path(f"{image}.png"),
                width=600,
                height=600,
                boxes=np.array([row[2:] for row in rows], np.float32).reshape(-1, 4),
                classes=np.array([row[1] for row in rows], np.int32),
                ignored=np.array([row[1:] for row in ignored if row[0] == image], np.float32).reshape(-1, 4),
            )
        )
    return DetectionSet(records, NAMES, IDS, Path("val.json"))


def case():
    """Two planes found, one plane taken for a ship, one ship missed, one tank from nothing, one on an ignored one."""
    dataset = detection_set(
        [
            (1, 0, 10, 10, 50, 50),
            (1, 0, 100, 10, 140, 50),
            (1, 1, 200, 10, 240, 50),
            (2, 0, 10, 10, 50, 50),
        ],
        ignored=[(2, 300, 300, 400, 400)],
    )
    table = detections(
        [
            (1, 1, 10, 10, 40, 40, 0.9),
            (1, 1, 101, 10, 40, 40, 0.8),
            (1, 1, 400, 400, 40, 40, 0.1),  # below the threshold
            (2, 2, 11, 10, 40, 40, 0.7),
            (2, 7, 500, 500, 20, 20, 0.6),
            (2, 7, 310, 310, 20, 20, 0.6),
        ]
    )
    return dataset, table


def test_confusion_matrix_by_hand():
    dataset, table = case()
    images = pair_images(dataset, table, np.full(3, 0.3))
    expected = [
        [2, 1, 0, 0],  # planes: two found, one taken for a ship
        [0, 0, 0, 1],  # the ship is missed
        [0, 0, 0, 0],
        [0, 0, 1, 0],  # a tank from nothing; that on the ignored region is none
    ]
    np.testing.assert_array_equal(confusion_matrix(images, 3), expected)
    first, second = images
    assert first.right.tolist() == [True, True] and first.found.tolist() == [True, True, False]
    assert first.f1 == pytest.approx(4 / 5) and first.mistakes == 1
    assert second.f1 == 0 and second.mistakes == 3  # the ship, the tank, the plane that was not found as one


def test_an_object_and_a_detection_pair_once_and_the_right_class_comes_first():
    dataset = detection_set([(1, 0, 0, 0, 40, 40)])
    table = detections([(1, 2, 0, 0, 40, 40, 0.9), (1, 1, 0, 0, 40, 40, 0.5), (1, 1, 0, 0, 40, 40, 0.6)])
    (first, _) = pair_images(dataset, table, np.zeros(3))
    assert first.object_of.tolist() == [-1, -1, 0]
    matrix = confusion_matrix([first], 3)
    assert matrix[0].tolist() == [1, 0, 0, 0] and matrix[3].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_confusion_matrix_against_an_independent_count(seed):
    """Loops over plain numbers, with an IoU of their own."""
    rng = np.random.default_rng(seed)
    objects, rows = [], []
    for image in (1, 2):
        for _ in range(30):
            x, y, w, h = rng.integers(0, 200, 2).tolist() + rng.integers(10, 60, 2).tolist()
            label = int(rng.integers(3))
            objects.append((image, label, x, y, x + w, y + h))
            dx, dy = rng.integers(-6, 7, 2).tolist()
            guess = label if rng.random() < 0.7 else int(rng.integers(3))
            rows.append((image, IDS[guess], x + dx, y + dy, w, h, round(float(rng.random()), 6)))
    thresholds = [0.2, 0.5, 0.35]
    expected = np.zeros((4, 4), int)
    for image in (1, 2):
        truth = [row[1:] for row in objects if row[0] == image]
        found = [
            (IDS.index(row[1]), row[2], row[3], row[2] + row[4], row[3] + row[5], row[6])
            for row in rows
            if row[0] == image and row[6] >= thresholds[IDS.index(row[1])]
        ]
        pairs = []
        for (i, a), (j, b) in product(enumerate(found), enumerate(truth)):
            wide = min(a[3], b[3]) - max(a[1], b[1])
            high = min(a[4], b[4]) - max(a[2], b[2])
            common = max(wide, 0) * max(high, 0)
            union = (a[3] - a[1]) * (a[4] - a[2]) + (b[3] - b[1]) * (b[4] - b[2]) - common
            if common / union >= 0.5:
                pairs.append((-common / union, a[0] != b[0], -a[5], i, j))
        of_found, of_truth = {}, {}
        for *_, i, j in sorted(pairs):
            if i not in of_found and j not in of_truth:
                of_found[i], of_truth[j] = j, i
        for i, a in enumerate(found):
            expected[truth[of_found[i]][0] if i in of_found else 3, a[0]] += 1
        for j, b in enumerate(truth):
            expected[b[0], 3] += j not in of_truth
    images = pair_images(detection_set(objects), detections(rows), np.array(thresholds))
    matrix = confusion_matrix(images, 3)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix[:3].sum() == 60 and np.trace(matrix) > 10 and (matrix - np.diag(np.diag(matrix))).sum() > 10


def test_no_detections_and_no_objects():
    dataset = detection_set([(1, 0, 0, 0, 40, 40)])
    images = pair_images(dataset, np.empty(0, DETECTION), np.zeros(3))
    assert [image.f1 for image in images] == [0.0, -1.0]
    assert confusion_matrix(images, 3).sum() == confusion_matrix(images, 3)[0, 3] == 1


def test_f1_at_the_recommended_scores_is_the_best_f1(tmp_path):
    """One class: pairs at the threshold give the F1 that the metric gives."""
    boxes = [(1, 1, 10, 10, 50, 50), (1, 1, 200, 10, 50, 50), (1, 1, 400, 10, 50, 50)]
    ann_file = ground_truth(tmp_path / "gt.json", boxes)
    rows = [(1, 1, 10, 10, 50, 50, 0.9), (1, 1, 300, 300, 50, 50, 0.8), (1, 1, 200, 10, 50, 50, 0.7),
            (1, 1, 300, 400, 50, 50, 0.6), (1, 2, 300, 400, 50, 50, 0.5)]  # fmt: skip
    result = evaluate_coco(ann_file, detections(rows), NAMES, IDS)
    thresholds = score_thresholds(result)
    assert thresholds == pytest.approx([0.7, 0.3, 0.3])
    dataset = detection_set([(1, 0, x, y, x + w, y + h) for _, _, x, y, w, h in boxes])
    image, _ = pair_images(dataset, detections(rows[:4]), thresholds)
    assert image.f1 == pytest.approx(result.classes[0].best_f1) == pytest.approx(4 / 6)


@pytest.mark.parametrize("seed", [0, 1])
def test_size_buckets_equal_pycocotools_with_these_ranges(tmp_path, seed):
    ann_file, table = random_case(tmp_path, seed)
    write_coco_json(tmp_path / "found.json", table)
    result = evaluate_coco(ann_file, table, NAMES, IDS, max_detections=150)
    sides = [0, 8, 16, 32, 64, 128, 1e5]
    assert list(SIZE_BUCKETS.values()) == [(low**2, high**2) for low, high in pairwise(sides)]
    assert [entry.name for entry in result.sizes] == list(SIZE_BUCKETS)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        theirs = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        theirs.params.areaRng = [list(limits) for limits in SIZE_BUCKETS.values()]
        theirs.params.areaRngLbl = list(SIZE_BUCKETS)
        theirs.params.maxDets = [1, 10, 150]
        theirs.evaluate()
        theirs.accumulate()
    areas = [entry["area"] for entry in truth.dataset["annotations"] if not entry["iscrowd"]]
    for position, (entry, (low, high)) in enumerate(zip(result.sizes, SIZE_BUCKETS.values())):
        precision = theirs.eval["precision"][0, :, :, position, -1]
        precision = precision[precision > -1]
        assert entry.ap50 == pytest.approx(precision.mean() if precision.size else -1, abs=1e-12)
        assert entry.objects == sum(low <= area <= high for area in areas)
    assert len({entry.ap50 for entry in result.sizes}) >= 5  # the case says something


def test_the_curve_of_a_class_is_that_of_pycocotools_and_its_mean_is_ap50(tmp_path):
    ann_file, table = random_case(tmp_path, 3)
    write_coco_json(tmp_path / "found.json", table)
    result = evaluate_coco(ann_file, table, NAMES, IDS)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(ann_file))
        theirs = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
        theirs.evaluate()
        theirs.accumulate()
    for position, entry in enumerate(result.classes[:2]):
        np.testing.assert_allclose(entry.curve, theirs.eval["precision"][0, :, position, 0, 2], atol=1e-12)
        assert np.mean(entry.curve) == pytest.approx(entry.ap50)
    assert result.classes[2].curve == ()
