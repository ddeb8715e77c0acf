"""DOTA's metric against a second implementation, written from the rule one detection at a time."""

import math

import numpy as np
import pytest

from src.base.errors import UserError
from src.detect.postprocess import Detections
from src.evaluation.dota_metrics import SceneObjects, average_precision, evaluate_dota

NAMES = ("plane", "ship", "harbor")


def overlap(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    area = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(area) - width * height)


def by_the_rule(truth, found, label, offset):
    """AP of one class: VOC's rule, loop by loop, and its area by hand."""
    objects = {
        scene: [
            {"box": box, "difficult": hard, "claimed": False}
            for box, kind, hard in zip(entry.boxes.tolist(), entry.classes, entry.difficult)
            if kind == label
        ]
        for scene, entry in truth.items()
    }
    positives = sum(not entry["difficult"] for scene in objects.values() for entry in scene)
    if positives == 0:
        return math.nan
    rows = [
        (score, scene, box)
        for scene, entry in found.items()
        for score, box, kind in zip(entry.scores.tolist(), entry.boxes.tolist(), entry.classes)
        if kind == label
    ]
    right = wrong = 0
    curve = []
    for _, scene, box in sorted(rows, key=lambda row: -row[0]):
        best, best_overlap = None, -1.0
        for entry in objects[scene]:
            value = overlap(box, entry["box"], offset)
            if value > best_overlap:
                best, best_overlap = entry, value
        if best_overlap > 0.5:
            if best["difficult"]:
                continue
            if best["claimed"]:
                wrong += 1
            else:
                best["claimed"] = True
                right += 1
        else:
            wrong += 1
        curve.append((right / positives, right / (right + wrong)))
    area, before = 0.0, 0.0
    for number, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[number:])
        before = recall
    return area


def random_case(seed):
    rng = np.random.default_rng(seed)
    truth, found = {}, {}
    for number in range(8):
        count = rng.integers(0, 40)
        corner = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(4, 50, (count, 2))], axis=1)
        classes = rng.integers(0, 2, count)  # no harbors
        truth[f"P{number:04d}"] = SceneObjects(boxes, classes, rng.random(count) < 0.2)
        if number == 7:
            continue  # a scene without any detection
        near = np.repeat(np.arange(count), rng.integers(0, 3, count))
        guesses = boxes[near] + rng.normal(0, 2, (len(near), 4))
        noise = rng.uniform(0, 300, (15, 2))
        guesses = np.concatenate([guesses, np.concatenate([noise, noise + 20], axis=1)]).astype(np.float32)
        kinds = np.concatenate([classes[near], rng.integers(0, 3, 15)])
        scores = rng.permutation(1000)[: len(guesses)] / 1000 + number / 10_000  # no ties
        found[f"P{number:04d}"] = Detections(guesses, scores, kinds)
    return truth, found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("whole_pixels", [False, True])
def test_equals_a_second_implementation(seed, whole_pixels):
    truth, found = random_case(seed)
    result = evaluate_dota(truth, found, NAMES, whole_pixels=whole_pixels)
    expected = [by_the_rule(truth, found, label, float(whole_pixels)) for label in range(3)]
    for entry, value in zip(result.classes, expected):
        assert entry.ap == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert math.isnan(expected[2]) and 0.1 < expected[0] < 0.95
    assert result.mean_ap == pytest.approx((expected[0] + expected[1]) / 2, abs=1e-6)
    assert "no objects" in result.table() and f"{result.mean_ap:.4f}" in result.table()


def scene(boxes, difficult):
    return {"P1": SceneObjects(np.array(boxes, float), np.zeros(len(boxes), int), np.array(difficult))}


def test_known_case():
    """Two objects and a difficult one; right, on the difficult one, claimed twice, right: 1/2 + 1/2 x 2/3."""
    truth = scene([[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], [False, False, True])
    boxes = np.array([[0, 0, 10, 10], [80, 80, 90, 90], [0, 0, 10, 11], [50, 50, 60, 60]], np.float32)
    found = {"P1": Detections(boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))}
    entry = evaluate_dota(truth, found, NAMES[:1]).classes[0]
    assert entry.ap == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert (entry.objects, entry.detections, entry.recall) == (2, 3, 1.0)


def test_nothing_found_and_only_difficult_objects():
    assert evaluate_dota(scene([[0, 0, 9, 9]], [False]), {}, NAMES).classes[0].ap == 0
    result = evaluate_dota(scene([[0, 0, 9, 9]], [True]), {}, NAMES)
    assert math.isnan(result.mean_ap)


def test_a_scene_without_labels_is_named():
    empty = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    with pytest.raises(UserError, match="P2"):
        evaluate_dota(scene([[0, 0, 9, 9]], [False]), {"P2": empty}, NAMES)


def test_overlap_matrix_in_parts_is_the_same(monkeypatch):
    truth, found = random_case(3)
    whole = evaluate_dota(truth, found, NAMES)
    monkeypatch.setattr("src.evaluation.dota_metrics._ELEMENTS_AT_ONCE", 50)
    parts = evaluate_dota(truth, found, NAMES)
    assert [entry.ap for entry in parts.classes[:2]] == [entry.ap for entry in whole.classes[:2]]


def test_average_precision_of_a_perfect_and_an_empty_curve():
    assert average_precision(np.array([0.5, 1.0]), np.ones(2)) == pytest.approx(1.0)
    assert average_precision(np.zeros(0), np.zeros(0)) == 0.0
