"""Post-processing against the published detections and a naive suppression."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.detect.postprocess import PostprocessOptions, postprocess, select_candidates, suppress
from src.transforms import ResizeGeometry, letterbox


def test_published_detections(fixtures):
    golden = np.load(fixtures / "postprocess.npz")
    options = PostprocessOptions(
        score_threshold=float(golden["score_threshold"]),
        nms_threshold=float(golden["diou_nms_threshold"]),
        published_overlap=True,
    )
    rows = []
    for number, (image_id, wh) in enumerate(zip(golden["image_ids"], golden["image_wh"])):
        maps = [golden[f"decoded_stride{stride}"][number] for stride in (8, 16, 32)]
        found = postprocess(maps, wh, options)
        sizes = found.boxes[:, 2:] - found.boxes[:, :2]
        ids = np.full(len(found), image_id)
        rows.append(np.column_stack([ids, found.classes + 1, found.boxes[:, :2], sizes, found.scores]))
    ours, theirs = np.concatenate(rows), golden["detections"]
    assert len(ours) == len(theirs) == 627

    def in_order(table):
        return table[np.lexsort((table[:, 2].round(2), -table[:, 6].round(7), table[:, 1], table[:, 0]))]

    ours, theirs = in_order(ours), in_order(theirs)
    np.testing.assert_array_equal(ours[:, :2], theirs[:, :2])
    np.testing.assert_allclose(ours[:, 6], theirs[:, 6], atol=1e-6)
    np.testing.assert_allclose(ours[:, 2:6], theirs[:, 2:6], atol=1e-3)


@pytest.mark.parametrize(("published_overlap", "kept"), [(False, 2), (True, 1)])
def test_the_published_overlap_counts_one_pixel_more(published_overlap, kept):
    """Boxes of 4 x 4 pixels, one pixel apart: IoU 12 / 20 = 0.6, with a pixel more on each side 20 / 30."""
    predictions = np.zeros((1, 1, 3, 6), np.float32)
    predictions[0, 0, :2] = [[0.12, 0.12, 0.04, 0.04, 0.9, 1], [0.13, 0.12, 0.04, 0.04, 0.8, 1]]
    options = PostprocessOptions(nms_type="iou", nms_threshold=0.63, published_overlap=published_overlap)
    assert len(postprocess([predictions], (100, 100), options)) == kept


def naive_suppress(boxes, scores, classes, threshold, diou):
    """The definition, one pair at a time."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            if classes[i] != classes[j]:
                continue
            a, b = boxes[i].astype(float), boxes[j].astype(float)
            w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
            value = w * h / union
            if diou:
                centres = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
                outer = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
                value -= centres / outer
            if value > threshold:
                break
        else:
            kept.append(i)
    return sorted(kept)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 700), diou=st.booleans(), threshold=st.floats(0.05, 0.95))
def test_suppression_equals_the_definition(seed, n, diou, threshold):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 60, (n, 2))], axis=1).astype(np.float32)
    scores = np.sort(rng.random(n))[::-1]
    classes = rng.integers(0, 3, n)
    ours = suppress(boxes, scores, classes, threshold, diou=diou)
    assert ours.tolist() == naive_suppress(boxes, scores, classes, threshold, diou)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), diou=st.booleans(), threshold=st.floats(0.1, 0.9))
def test_suppression_does_not_depend_on_the_order(seed, diou, threshold):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-1000, 9000, (400, 2)) if seed % 2 else rng.uniform(0, 60, (400, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.5, 40, (400, 2))], axis=1).astype(np.float32)
    scores, classes = rng.permutation(400) / 400, rng.integers(0, 80, 400)
    kept = suppress(boxes, scores, classes, threshold, diou=diou)
    assert (np.diff(scores[kept]) < 0).all()
    shuffled = rng.permutation(400)
    again = suppress(boxes[shuffled], scores[shuffled], classes[shuffled], threshold, diou=diou)
    assert shuffled[again].tolist() == kept.tolist()
    assert kept.tolist() == suppress(boxes[:], scores, classes, threshold, diou=diou, limit=400).tolist()
    assert kept[:7].tolist() == suppress(boxes, scores, classes, threshold, diou=diou, limit=7).tolist()
    # No two kept boxes of a class overlap: keeping only those again changes nothing.
    once_more = suppress(boxes[kept], scores[kept], classes[kept], threshold, diou=diou)
    assert once_more.tolist() == list(range(len(kept)))


def test_boxes_that_just_touch_the_threshold_stay():
    """IoU 0.5 exactly is not above 0.5. Another class and a box without area are no reason to drop either."""
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 10], [3, 3, 3, 3]], np.float32)
    scores, classes = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 1, 0])
    assert suppress(boxes, scores, classes, 0.5, diou=False).tolist() == [0, 1, 2, 3]
    assert suppress(boxes, scores, classes, 0.49, diou=False).tolist() == [0, 2, 3]


def one_box_maps(x, y, w, h, objectness=0.9, probabilities=(0.1, 0.8)):
    decoded = np.zeros((1, 1, 3, 5 + len(probabilities)), np.float32)
    decoded[0, 0, 1] = (x, y, w, h, objectness, *probabilities)
    return [decoded]


def test_score_is_objectness_times_best_class():
    found = postprocess(
        one_box_maps(0.5, 0.5, 0.25, 0.5), (400, 200), PostprocessOptions(score_threshold=0.5)
    )
    assert found.classes.tolist() == [1]
    assert found.scores[0] == pytest.approx(0.72)
    assert found.boxes[0].tolist() == [150, 50, 250, 150]


def test_boxes_are_clipped_on_all_sides():
    found = postprocess(one_box_maps(0.0, 0.9, 0.5, 0.5), (100, 100), PostprocessOptions())
    np.testing.assert_allclose(found.boxes[0], [0, 65, 25, 100], atol=1e-4)


def test_multi_label_gives_each_class_above_its_threshold():
    options = PostprocessOptions(multi_label=True, multi_label_thresh=0.3)
    maps = one_box_maps(0.5, 0.5, 0.2, 0.2, probabilities=(0.4, 0.8, 0.2))
    assert postprocess(maps, (100, 100), options).classes.tolist() == [1, 0]
    assert postprocess(maps, (100, 100), PostprocessOptions()).classes.tolist() == [1]


@settings(max_examples=50, deadline=None)
@given(width=st.integers(20, 900), height=st.integers(20, 900))
def test_letterbox_is_undone_exactly(width, height):
    image = np.zeros((height, width, 3), np.uint8)
    input_hw = (96, 128)
    _, geometry = letterbox(image, input_hw)
    box = np.array([[0.2 * width, 0.3 * height, 0.7 * width, 0.9 * height]], np.float32)
    x1, y1, x2, y2 = geometry.forward(box)[0] / np.array([128, 96, 128, 96])
    maps = one_box_maps((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    found = postprocess(maps, (width, height), PostprocessOptions(), geometry, input_hw)
    np.testing.assert_allclose(found.boxes, box, atol=1e-3 * max(width, height))


def test_stretch_by_geometry_equals_stretch_by_shares():
    maps = one_box_maps(0.4, 0.6, 0.3, 0.2)
    geometry = ResizeGeometry(128 / 300, 96 / 500)
    direct = postprocess(maps, (300, 500), PostprocessOptions())
    mapped = postprocess(maps, (300, 500), PostprocessOptions(), geometry, (96, 128))
    np.testing.assert_allclose(direct.boxes, mapped.boxes, rtol=1e-5)


def test_nothing_found_and_caps():
    empty = postprocess(one_box_maps(0.5, 0.5, 0.1, 0.1, objectness=0.0), (10, 10), PostprocessOptions())
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)
    rng = np.random.default_rng(0)
    decoded = rng.random((20, 20, 3, 7)).astype(np.float32)
    decoded[..., 2:4] *= 0.01
    found = postprocess([decoded], (500, 500), PostprocessOptions(max_detections=50))
    assert len(found) == 50 and (np.diff(found.scores) <= 0).all()
    assert found.capped and not empty.capped
    everything = postprocess([decoded], (500, 500), PostprocessOptions(max_detections=1200))
    assert len(everything) > 500 and not everything.capped
    np.testing.assert_array_equal(found.boxes, everything.boxes[:50])


@pytest.mark.parametrize("multi_label", [False, True])
def test_most_candidates_are_the_best_ones(multi_label):
    rng = np.random.default_rng(1)
    maps = [rng.random((side, side, 3, 9)).astype(np.float32) for side in (3, 6, 12)]
    options = PostprocessOptions(multi_label=multi_label, multi_label_thresh=0.5, max_candidates=10**6)
    boxes, scores, classes = select_candidates(maps, options)
    rows = np.concatenate([level.reshape(-1, 9) for level in maps])
    products = rows[:, 4:5] * rows[:, 5:]
    expected = products[rows[:, 5:] > 0.5] if multi_label else products.max(axis=1)
    np.testing.assert_array_equal(np.sort(scores), np.sort(expected))
    few = select_candidates(maps, replace(options, max_candidates=100))
    for one, other in zip(few, (boxes, scores, classes)):
        np.testing.assert_array_equal(one, other[:100])


def test_boxes_that_are_not_finite_are_no_detections():
    maps = one_box_maps(0.5, 0.5, np.inf, 0.2)
    assert len(postprocess(maps, (10, 10), PostprocessOptions())) == 0
