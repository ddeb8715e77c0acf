"""Merging across seams: against brute force on random boxes, and by hand on cut objects."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from src.detect.box_pairs import intersecting_pairs
from src.detect.merge import JOINED, MergeOptions, TileDetections, merge_scene, suppress_views


def random_boxes(rng, count, area=200.0):
    """Boxes of very different sizes and shapes, some equal, some without area, some that only touch."""
    corner = rng.uniform(0, area, (count, 2))
    sides = np.exp(rng.uniform(0, 4, (count, 2)))
    boxes = np.concatenate([corner, corner + sides], axis=1)
    if rng.random() < 0.5:
        boxes = boxes.round(-1)
    return boxes


def all_pairs(boxes, labels):
    found = set()
    for i in range(len(boxes)):
        for j in range(i):
            a, b = boxes[i], boxes[j]
            apart = a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
            if labels[i] == labels[j] and not apart:
                found.add((j, i))
    return found


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40))
def test_pairs_equal_brute_force_and_come_once(seed, count):
    rng = np.random.default_rng(seed)
    boxes, labels = random_boxes(rng, count) - 50, rng.integers(0, 3, count)
    listed = [tuple(sorted(pair)) for part in intersecting_pairs(boxes, labels) for pair in zip(*part)]
    assert len(listed) == len(set(listed))
    assert {(int(a), int(b)) for a, b in listed} == all_pairs(boxes, labels)


def test_pairs_of_many_boxes_in_parts_equal_an_independent_index(monkeypatch):
    monkeypatch.setattr("src.detect.box_pairs._CANDIDATES_AT_ONCE", 500)
    rng = np.random.default_rng(5)
    boxes = random_boxes(rng, 5000, area=3000)
    boxes[:3] = [[0, 0, 3000, 1], [0, 0, 1, 3000], [-10, -10, 4000, 4000]]
    parts = list(intersecting_pairs(boxes, np.zeros(5000, int)))
    assert len(parts) > 10
    ours = {tuple(sorted(pair)) for part in parts for pair in zip(part[0].tolist(), part[1].tolist())}
    shapes = shapely.box(*boxes.T)
    a, b = shapely.STRtree(shapes).query(shapes)
    assert ours == set(zip(a[a < b].tolist(), b[a < b].tolist()))


def suppress_by_loops(boxes, classes, tile, threshold):
    kept, owner = [], []
    for i, box in enumerate(boxes):
        for k in kept:
            other = boxes[k]
            if classes[i] != classes[k] or (tile[i] == tile[k] and tile[i] != JOINED):
                continue
            width = min(box[2], other[2]) - max(box[0], other[0])
            height = min(box[3], other[3]) - max(box[1], other[1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
            if shared / max(sum(areas) - shared, 1e-300) > threshold:
                owner.append(k)
                break
        else:
            kept.append(i)
            owner.append(i)
    return kept, owner


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_suppression_equals_brute_force(seed, count, threshold):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, count, area=40)
    classes, tile = rng.integers(0, 2, count), rng.integers(-1, 3, count)
    scores = -np.sort(-rng.uniform(0.01, 1, count))
    expected, owner = suppress_by_loops(boxes, classes, tile, threshold)
    kept, same = suppress_views(boxes, classes, tile, threshold, scores)
    assert kept.tolist() == expected
    assert (same == boxes[kept]).all()
    kept, mean = suppress_views(boxes, classes, tile, threshold, scores, "weighted")
    assert kept.tolist() == expected
    for number, box in zip(kept.tolist(), mean):
        rows = np.flatnonzero(np.array(owner) == number)
        np.testing.assert_allclose(box, np.average(boxes[rows], axis=0, weights=scores[rows]), atol=1e-9)


# Two rows of two tiles, 100 wide with 20 in common, in a scene of 180 x 180.
WINDOWS = np.array([[0, 0, 100, 100], [80, 0, 180, 100], [0, 80, 100, 180], [80, 80, 180, 180]], float)


def merged(rows, method="nms", windows=WINDOWS, scene=(180, 180)):
    """Of (tile, class, score, x1, y1, x2, y2)."""
    rows = np.array(rows, float)
    found = TileDetections(
        rows[:, 3:], rows[:, 2], rows[:, 1].astype(int), rows[:, 0].astype(int), windows, scene
    )
    result = merge_scene(found, MergeOptions(method))
    return [
        (int(c), round(float(s), 3), *map(float, b))
        for c, s, b in zip(result.classes, result.scores, result.boxes)
    ]


def test_cut_box_gives_way_to_the_whole_one_whatever_the_scores():
    rows = [(0, 0, 0.9, 85, 20, 100, 40), (1, 0, 0.6, 85, 20, 115, 40)]
    assert merged(rows) == [(0, 0.6, 85, 20, 115, 40)]
    assert merged(rows[::-1]) == [(0, 0.6, 85, 20, 115, 40)]


def test_cut_box_stays_where_the_other_is_of_another_class_or_ends_at_the_seam_or_is_noise():
    cut = (0, 0, 0.9, 85, 20, 100, 40)
    assert len(merged([cut, (1, 1, 0.9, 85, 20, 115, 40)])) == 2
    assert len(merged([(0, 0, 0.9, 92, 22, 100, 26), (1, 0, 0.8, 82, 10, 95, 40)])) == 2
    assert len(merged([cut, (1, 0, 0.05, 85, 20, 115, 40)])) == 2


def test_box_at_the_border_of_the_scene_is_whole():
    assert merged([(0, 0, 0.9, 0, 0, 30, 30), (1, 0, 0.8, 160, 20, 180, 50)]) == [
        (0, 0.9, 0, 0, 30, 30),
        (0, 0.8, 160, 20, 180, 50),
    ]


def test_parts_of_a_long_object_are_joined_and_neighbours_are_not():
    rows = [
        (0, 0, 0.9, 30, 10, 100, 20), (1, 0, 0.8, 80, 10, 150, 20),
        (0, 0, 0.7, 35, 24, 100, 34), (1, 0, 0.9, 80, 24, 140, 34),
    ]  # fmt: skip
    assert merged(rows) == [(0, 0.9, 30, 10, 150, 20), (0, 0.9, 35, 24, 140, 34)]


def test_parts_of_different_objects_are_not_joined():
    """The left one begins within the strip that both tiles show, where the right tile sees nothing of it."""
    rows = [(0, 0, 0.9, 86, 10, 100, 50), (1, 0, 0.8, 80, 40, 130, 80)]
    assert len(merged(rows)) == 2


def test_object_that_lies_askew_is_joined_from_halves_at_different_heights():
    rows = [(0, 0, 0.9, 40, 10, 100, 60), (1, 0, 0.8, 80, 45, 150, 95)]
    assert merged(rows) == [(0, 0.9, 40, 10, 150, 95)]


def test_object_across_four_tiles_comes_out_once_and_whole():
    rows = [
        (0, 1, 0.9, 30, 40, 100, 100), (1, 1, 0.7, 80, 40, 140, 100),
        (2, 1, 0.8, 30, 80, 100, 150), (3, 1, 0.6, 80, 80, 140, 150),
    ]  # fmt: skip
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]):
        assert merged([rows[number] for number in order]) == [(1, 0.9, 30, 40, 140, 150)]


def test_object_across_three_tiles_without_overlap_is_joined():
    windows = np.array([[0, 0, 100, 100], [100, 0, 200, 100], [200, 0, 300, 100]], float)
    rows = [(0, 0, 0.5, 60, 10, 99.2, 30), (1, 0, 0.6, 100.5, 10, 200, 30), (2, 0, 0.7, 201, 11, 230, 30)]
    assert merged(rows, windows=windows, scene=(300, 100)) == [(0, 0.7, 60, 10, 230, 30)]


def test_views_of_one_object_become_one_and_dense_objects_of_a_tile_stay():
    views = [(0, 0, 0.9, 84, 20, 96, 40), (1, 0, 0.6, 85, 20, 97, 40), (3, 0, 0.3, 84, 84, 94, 94)]
    assert merged(views) == [(0, 0.9, 84, 20, 96, 40), (0, 0.3, 84, 84, 94, 94)]
    (_, _, x1, *_), _ = merged(views, "weighted")
    assert x1 == pytest.approx((0.9 * 84 + 0.6 * 85) / 1.5, abs=1e-4)
    dense = [(0, 0, 0.9, 10, 10, 30, 30), (0, 0, 0.8, 15, 10, 35, 30)]  # IoU 0.6
    assert len(merged(dense)) == 2


def test_no_detections():
    none = TileDetections(
        np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, int), WINDOWS, (180, 180)
    )
    assert len(merge_scene(none)) == 0


def test_unknown_method():
    with pytest.raises(ValueError, match="nms or weighted"):
        MergeOptions("mean")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_perfect_tiles_give_back_the_objects(seed, count):
    """Objects on a grid of places, up to 2.5 tiles long, each tile sees its part of each: all come out once."""
    rng = np.random.default_rng(seed)
    starts = (0, 80, 160, 240)
    windows = np.array([[x, y, x + 100, y + 100] for y in starts for x in starts], float)
    taken = np.zeros((340, 340), bool)
    objects = []
    for _ in range(count):
        w, h = np.exp(rng.uniform(1.5, 5.5, 2)).astype(int) + 4
        x, y = (int(rng.integers(0, max(1, 340 - side))) for side in (w, h))
        w, h = min(w, 340 - x), min(h, 340 - y)
        if not taken[max(0, y - 3) : y + h + 3, max(0, x - 3) : x + w + 3].any():
            taken[y : y + h, x : x + w] = True
            objects.append((x, y, x + w, y + h))
    rows = []
    for number, window in enumerate(windows):
        for box in objects:
            part = np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])
            if (part[2:] - part[:2] >= 1).all():
                rows.append((number, 0, rng.uniform(0.3, 1), *part))
    found = merged(rows, windows=windows, scene=(340, 340))
    assert sorted(box[2:] for box in found) == sorted(tuple(map(float, box)) for box in objects)


def shaken_views(rng, count=150, side=2000, tile=400, step=320):
    """Objects, and what the tiles of a scene see of them with errors of 2 % of a side and half a pixel."""
    starts = [*range(0, side - tile, step), side - tile]
    windows = np.array([[x, y, x + tile, y + tile] for y in starts for x in starts], float)
    taken = np.zeros((side, side), bool)
    objects = []
    while len(objects) < count:
        w, h = np.exp(rng.uniform(3, 5.5, 2)).astype(int)
        x, y = int(rng.integers(0, side - w)), int(rng.integers(0, side - h))
        if not taken[max(0, y - 3) : y + h + 3, max(0, x - 3) : x + w + 3].any():
            taken[y : y + h, x : x + w] = True
            objects.append((x, y, x + w, y + h))
    rows = []
    for number, window in enumerate(windows):
        for box in np.array(objects, float):
            part = np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])
            if (part[2:] - part[:2] >= 4).all():
                part += rng.normal(0, 0.02, 4) * np.tile(part[2:] - part[:2], 2) + rng.normal(0, 0.5, 4)
                part = np.concatenate([np.maximum(part[:2], window[:2]), np.minimum(part[2:], window[2:])])
                rows.append((number, 0, rng.uniform(0.3, 1), *part))
    return np.array(objects, float), rows, windows


@pytest.mark.parametrize("seed", range(3))
def test_shaken_boxes_too_come_out_once(seed):
    """All but a few; plain suppression, as other slicers have it, leaves a cut box with every fifth object."""
    objects, rows, windows = shaken_views(np.random.default_rng(seed))
    found = np.array([box[2:] for box in merged(rows, windows=windows, scene=(2000, 2000))])
    low = np.maximum(found[:, None, :2], objects[None, :, :2])
    shared = np.maximum(np.minimum(found[:, None, 2:], objects[None, :, 2:]) - low, 0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (found, objects)]
    overlap = shared / (areas[0][:, None] + areas[1] - shared)
    assert (overlap.max(axis=0) > 0.75).all()  # whole
    assert len(found) <= 1.02 * len(objects)  # once
    table = np.array(sorted(rows, key=lambda row: -row[2]))
    kept, _ = suppress_views(table[:, 3:], table[:, 1], table[:, 0], 0.5, table[:, 2])
    assert len(kept) > 1.15 * len(objects)
