"""Geometry of the augmentation and of evaluation's resize: boxes follow the pixels."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from src.transforms import (
    ResizeGeometry,
    TrainAugment,
    clip_boxes,
    distort_colour,
    letterbox,
    mosaic,
    place,
    stretch_for_eval,
)
from src.yolo import IMAGE_MEAN, IMAGE_STD
from tests.markers import corner_points, find, marked

PLAIN = TrainAugment(hue=0.0, saturation=1.0, value=1.0)


def marked_picture(width, height, boxes):
    """Black, with a white rectangle in each box."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2 in np.asarray(boxes, int):
        image[y1:y2, x1:x2] = 255
    return image


def test_published_resize_of_evaluation(fixtures):
    golden = np.load(fixtures / "eval_resize.npz")
    resized, geometry = stretch_for_eval(golden["image"], tuple(golden["input_hw"]))
    network_input = (resized / 255 - IMAGE_MEAN) / IMAGE_STD
    np.testing.assert_allclose(network_input.transpose(2, 0, 1), golden["network_input"], atol=1e-3)
    assert (geometry.scale_x, geometry.scale_y) == (128 / 75, 96 / 60)


sides = st.integers(20, 1500)


@given(w=sides, h=sides, box=st.lists(st.floats(0, 1), min_size=4, max_size=4), enlarge=st.booleans())
@settings(max_examples=60, deadline=None)
def test_geometry_inverse_undoes_forward(w, h, box, enlarge):
    picture = np.zeros((h, w, 3), np.uint8)
    boxes = np.array([box]) * (w, h, w, h)
    for _, geometry in (stretch_for_eval(picture, (96, 160)), letterbox(picture, (96, 160), enlarge)):
        np.testing.assert_allclose(geometry.inverse(geometry.forward(boxes)), boxes, atol=1e-3 * max(w, h))


@given(w=st.integers(40, 300), h=st.integers(40, 300), enlarge=st.booleans())
@settings(max_examples=40, deadline=None)
def test_letterbox_boxes_follow_the_pixels(w, h, enlarge):
    box = np.array([[w // 4, h // 3, w // 2 + 4, h // 2 + 6]], np.float32)
    canvas, geometry = letterbox(marked_picture(w, h, box), (160, 192), enlarge)
    assert canvas.shape == (160, 192, 3)
    if not enlarge:
        assert geometry.scale_x <= 1.001 and geometry.scale_y <= 1.001
    rows, columns = np.nonzero(canvas[..., 0] > 190)  # over the grey of the borders
    assume(len(rows))
    drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(geometry.forward(box)[0], drawn, atol=2.5)


@given(
    w=st.integers(60, 700),
    h=st.integers(60, 700),
    input_hw=st.sampled_from([(96, 96), (160, 192), (320, 256)]),
    enlarge=st.booleans(),
    place=st.tuples(*[st.floats(0, 1)] * 4),
)
@settings(max_examples=80, deadline=None)
def test_letterbox_maps_boxes_onto_the_markers_of_their_corners(w, h, input_hw, enlarge, place):
    """The markers are found in the pixels, within half a pixel of where the geometry says."""
    assume(max(w, h) < 6 * min(w, h))
    ratio = min(input_hw[0] / h, input_hw[1] / w)
    radius = min(max(2, round(2 / ratio)), min(w, h) // 4)
    x1, y1, x2, y2 = (round(radius + share * (side - 2 * radius)) for share, side in zip(place, (w, h, w, h)))
    found = []
    for shown in (corner_points((x1, y1, x2, y2))[:3], [(x1, y2)]):
        canvas, geometry = letterbox(marked(w, h, shown, radius), input_hw, enlarge)
        for channel in range(len(shown)):
            edged = np.pad(
                canvas, ((1, 1), (1, 1), (0, 0)), constant_values=128
            )  # a picture may fill the input
            found.append(find(edged, channel)[0] - 1)
    upper_left, upper_right, lower_left, _ = found
    box = geometry.forward(np.array([[x1, y1, x2, y2]], np.float32))[0]
    np.testing.assert_allclose([*upper_left, upper_right[0], lower_left[1]], box, atol=0.5)
    if not enlarge and ratio >= 1:
        assert geometry.scale_x == geometry.scale_y == 1
    else:
        assert np.isclose(max(geometry.scale_x * w / input_hw[1], geometry.scale_y * h / input_hw[0]), 1)


@given(seed=st.integers(0, 10**6), side=st.sampled_from([96, 160, 416]), scaled=st.booleans())
@settings(max_examples=80, deadline=None)
def test_augmented_boxes_lie_on_their_objects(seed, side, scaled):
    """Well apart white rectangles: inside each returned box it is white, just outside black or grey."""
    boxes = np.array(
        [[20, 30, 120, 90], [200, 40, 290, 150], [60, 180, 130, 280], [220, 220, 280, 260]], np.float32
    )
    image = marked_picture(320, 310, boxes)
    augment = TrainAugment(hue=0.0, saturation=1.0, value=1.0, each_multiscale=scaled)
    canvas, found, classes = augment(np.random.default_rng(seed), image, boxes, np.arange(4), (side, side))
    assert canvas.shape == (side, side, 3) and canvas.dtype == np.uint8
    assert len(found) == len(classes) >= 1
    assert (found >= 0).all() and (found <= side).all()
    for x1, y1, x2, y2 in found:
        inner = canvas[int(np.ceil(y1 + 1)) : int(y2 - 1), int(np.ceil(x1 + 1)) : int(x2 - 1)]
        if inner.size:
            assert inner.min() > 200
        around = canvas[max(int(y1) - 3, 0) : int(y2) + 4, max(int(x1) - 3, 0) : int(x2) + 4]
        white = (around[..., 0] > 190).sum()
        assert white <= (x2 - x1 + 2.5) * (y2 - y1 + 2.5)


def test_classes_stay_with_their_boxes():
    """Each class has its own brightness; the box of a class shows it, whatever the crop and flip."""
    boxes = np.array([[20, 30, 120, 90], [200, 40, 290, 150], [60, 180, 130, 280]], np.float32)
    image = np.zeros((300, 300, 3), np.uint8)
    for level, (x1, y1, x2, y2) in zip((60, 90, 220), boxes.astype(int)):
        image[y1:y2, x1:x2] = level
    for seed in range(40):
        canvas, found, classes = PLAIN(np.random.default_rng(seed), image, boxes, np.arange(3), (256, 256))
        for (x1, y1, x2, y2), label in zip(found, classes):
            centre = canvas[int((y1 + y2) / 2), int((x1 + x2) / 2), 0]
            assert abs(int(centre) - (60, 90, 220)[label]) <= 3


def test_flip_happens_at_its_probability():
    image = marked_picture(100, 100, [[10, 10, 30, 90]])
    boxes, classes = np.array([[10, 10, 30, 90]], np.float32), np.zeros(1, int)
    augment = TrainAugment(hue=0, saturation=1, value=1, each_multiscale=False, flip=0.25)
    flipped = sum(
        augment(np.random.default_rng(seed), image, boxes, classes, (96, 96))[1][0, 0] > 48
        for seed in range(400)
    )
    assert 70 <= flipped <= 130  # 100 expected, three deviations are 26


@pytest.mark.parametrize("new_wh", [(260, 130), (50, 30), (100, 60), (90, 200)])
@pytest.mark.parametrize("pad", [(-20, -10), (7, 5), (0, 0)])
def test_place_equals_resize_then_paste(new_wh, pad):
    """Against the definition: resize the whole picture by OpenCV, then cut what the input shows."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 100, 3), np.uint8), (0, 0), 2)
    geometry = ResizeGeometry(new_wh[0] / 100, new_wh[1] / 60, *pad)
    ours = place(image, geometry, new_wh, (128, 160))
    whole = cv2.resize(image, (min(new_wh[0], 100), min(new_wh[1], 60)), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(whole, new_wh, interpolation=cv2.INTER_LINEAR)
    expected = np.full((128, 160, 3), 128, np.uint8)
    for row in range(128):
        for column in range(160):
            y, x = row - pad[1], column - pad[0]
            if 0 <= y < new_wh[1] and 0 <= x < new_wh[0]:
                expected[row, column] = whole[y, x]
    assert np.abs(ours.astype(int) - expected).max() <= 4  # warp and resize round differently


def test_small_objects_do_not_vanish_where_one_axis_shrinks():
    """Lines one pixel wide, each eighth column, shrunk eight times across while the picture grows in height."""
    image = np.zeros((40, 320, 3), np.uint8)
    image[:, 3::8] = 240
    canvas = place(image, ResizeGeometry(1 / 8, 1.5), (40, 60), (60, 40))
    assert (canvas == 30).all()  # 240 / 8 everywhere; samples between the lines would be black


def test_colour_distortion_against_floats():
    """The tables against OpenCV's float HSV."""
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 3)
    assert np.abs(distort_colour(image, 0.0, 1.0, 1.0).astype(int) - image).max() <= 4
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 0.1 * 360) % 360
    hsv[..., 1] = np.minimum(hsv[..., 1] * 1.3, 1)
    hsv[..., 2] = np.minimum(hsv[..., 2] * 0.8, 1)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    assert np.abs(distort_colour(image, 0.1, 1.3, 0.8) - expected).mean() < 3


def test_clip_boxes_by_hand():
    boxes = np.array([[-10, -10, 30, 30], [-30, 0, 10, 20], [90, 90, 140, 108], [5, 5, 5.5, 40]], np.float32)
    clipped, kept = clip_boxes(boxes, (100, 100))
    assert kept.tolist() == [True, False, False, False]
    assert clipped.tolist() == [[0, 0, 30, 30]]


def test_mosaic_takes_a_corner_of_each():
    samples = []
    for number in range(4):
        canvas = np.full((64, 96, 3), 50 * (number + 1), np.uint8)
        boxes = np.array([[0, 0, 96, 64], [2, 2, 10, 10], [86, 54, 94, 62]], np.float32)
        samples.append((canvas, boxes, np.array([number, 10 + number, 20 + number])))
    canvas, boxes, classes = mosaic(np.random.default_rng(0), samples, (64, 96))
    corners = canvas[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    assert corners.tolist() == [50, 100, 150, 200]
    assert 10 in classes and 23 in classes and 11 not in classes and 20 not in classes
    for (x1, y1, x2, y2), label in zip(boxes, classes):
        part = canvas[int(y1) : int(y2), int(x1) : int(x2), 0]
        assert (part == 50 * (label % 10 + 1)).all()


def test_a_picture_without_objects_passes():
    canvas, boxes, classes = TrainAugment()(
        np.random.default_rng(0),
        np.zeros((50, 60, 3), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, int),
        (96, 96),
    )
    assert canvas.shape == (96, 96, 3) and boxes.shape == (0, 4) and len(classes) == 0
