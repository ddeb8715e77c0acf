"""Geometry of the augmentation and of evaluation's resize: boxes follow the pixels."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from src.transforms import (
    FILTERS,
    ResizeGeometry,
    TrainAugment,
    clip_boxes,
    colour_tables,
    distort_colour,
    flip_sample,
    letterbox,
    mosaic,
    place,
    resample,
    stretch_for_eval,
)
from src.yolo import IMAGE_MEAN, IMAGE_STD
from tests.markers import corner_points, find, marked

PLAIN = TrainAugment(hue=0.0, saturation=1.0, value=1.0, filters=("bilinear",))


def marked_image(width, height, boxes):
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
    image = np.zeros((h, w, 3), np.uint8)
    boxes = np.array([box]) * (w, h, w, h)
    for _, geometry in (stretch_for_eval(image, (96, 160)), letterbox(image, (96, 160), enlarge)):
        np.testing.assert_allclose(geometry.inverse(geometry.forward(boxes)), boxes, atol=1e-3 * max(w, h))


@given(w=st.integers(40, 300), h=st.integers(40, 300), enlarge=st.booleans())
@settings(max_examples=40, deadline=None)
def test_letterbox_boxes_follow_the_pixels(w, h, enlarge):
    box = np.array([[w // 4, h // 3, w // 2 + 4, h // 2 + 6]], np.float32)
    canvas, geometry = letterbox(marked_image(w, h, box), (160, 192), enlarge)
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
            )  # an image may fill the input
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
    image = marked_image(320, 310, boxes)
    augment = TrainAugment(
        hue=0.0, saturation=1.0, value=1.0, each_multiscale=scaled, filters=("nearest", "bilinear")
    )  # the others ring at edges
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
    image = marked_image(100, 100, [[10, 10, 30, 90]])
    boxes, classes = np.array([[10, 10, 30, 90]], np.float32), np.zeros(1, int)
    augment = TrainAugment(hue=0, saturation=1, value=1, each_multiscale=False, flip=0.25)
    flipped = sum(
        augment(np.random.default_rng(seed), image, boxes, classes, (96, 96))[1][0, 0] > 48
        for seed in range(400)
    )
    assert 70 <= flipped <= 130  # 100 expected, three deviations are 26


def test_published_crops(fixtures):
    """Boxes that the published crop makes of an image's, those whose centre leaves the input among them."""
    golden = np.load(fixtures / "crop_boxes.npz")
    of_centres_outside = 0
    for case in range(int(golden["cases"])):
        boxes, expected = golden[f"{case}:boxes"], golden[f"{case}:result"]
        dx, dy, new_w, new_h, flip, input_h, input_w, width, height = golden[f"{case}:crop"].tolist()
        placed = ResizeGeometry(new_w / width, new_h / height, dx, dy).forward(boxes[:, :4])
        found, kept = clip_boxes(placed, (input_h, input_w))
        of_centres_outside += len(found) - len(clip_boxes(placed, (input_h, input_w), keep_cut=False)[0])
        if flip:
            _, found = flip_sample(np.zeros((input_h, input_w, 3), np.uint8), found)
        np.testing.assert_allclose(found, expected[:, :4], atol=0.01)
        assert boxes[kept, 4].tolist() == expected[:, 4].tolist()
    assert of_centres_outside > 20


def test_published_colours(fixtures):
    golden = np.load(fixtures / "colour.npz")
    for case in range(8):
        ours = distort_colour(golden["image"], colour_tables(*golden[f"{case}:factors"]))
        assert np.abs(ours.astype(int) - golden[f"{case}:result"]).max() <= 1


def golden_image(number, width, height):
    """By the rule in tests/fixtures/README.md."""
    image = np.full((height, width, 3), 36 * number, np.uint8)
    image[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    image[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return image


def golden_samples(golden):
    """Image, boxes and classes of each image id of the golden document."""
    document = json.loads(str(golden["annotations"]))
    order = golden["category_order"].tolist()
    samples = {}
    for number, image in enumerate(document["images"]):
        found = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        boxes = np.array([entry["bbox"] for entry in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = np.array([order.index(entry["category_id"]) for entry in found], int)
        samples[image["id"]] = golden_image(number, image["width"], image["height"]), boxes, classes
    return samples


def test_published_mosaics(fixtures):
    golden = np.load(fixtures / "dataset_and_mosaic.npz")
    samples = golden_samples(golden)
    for case in range(int(golden["cases"])):
        parts = [samples[number] for number in golden[f"{case}:image_ids"].tolist()]
        canvas, boxes, classes = mosaic(parts, tuple(golden[f"{case}:centre_xy"].tolist()))
        expected = cv2.imdecode(golden[f"{case}:canvas"], cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(canvas, expected)
        np.testing.assert_allclose(boxes, golden[f"{case}:labels"][:, :4], atol=1e-4)  # float32
        assert classes.tolist() == golden[f"{case}:labels"][:, 4].tolist()


def test_mosaics_are_cropped_as_any_image():
    """The canvas of four greys goes through the crop; the centre, found in the input, is drawn in 192 to 576."""
    samples = [
        (
            np.full((600, 600, 3), level, np.uint8),
            np.array([[0, 0, 600, 600]], np.float32),
            np.array([number]),
        )
        for number, level in enumerate((10, 60, 110, 160))
    ]
    still = TrainAugment(hue=0, saturation=1, value=1, flip=0, each_multiscale=False, filters=("nearest",))
    centres = []
    for seed in range(200):
        canvas, boxes, classes = still.join(np.random.default_rng(seed), samples, (768, 768))
        cx, cy = boxes[0, 2:].astype(int)
        assert classes.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(
            boxes, [[max(cx - 600, 0), max(cy - 600, 0), cx, cy], [cx, max(cy - 600, 0), 768, cy],
                    [max(cx - 600, 0), cy, cx, 768], [cx, cy, 768, 768]], atol=0.01,
        )  # fmt: skip
        shown = [canvas[cy + y, cx + x, 0] for y in (-1, 0) for x in (-1, 0)]
        assert np.abs(np.array(shown, int) - (10, 60, 110, 160)).max() <= 1
        centres += [cx, cy]
    assert 192 <= min(centres) < 215 and 553 < max(centres) <= 576
    scaled = TrainAugment(flip=0).join(np.random.default_rng(0), samples, (416, 416))
    assert scaled[0].shape == (416, 416, 3)


def without_ties(difference, image, new_wh, corner, name):
    """Differences (h, w, 3) of a window with this corner, but for centres that fall between two pixels of nearest."""
    if name != "nearest":
        return difference
    for axis, (length, new_length) in enumerate(zip(image.shape, new_wh[::-1])):
        centres = 2 * (np.arange(difference.shape[axis]) + corner[1 - axis]) + 1
        difference = difference.compress(centres * length % (2 * new_length) != 0, axis)
    return difference


@pytest.mark.parametrize("name", list(FILTERS))
@pytest.mark.parametrize("new_wh", [(257, 131), (53, 31), (100, 60), (93, 201), (613, 20)])
@pytest.mark.parametrize("pad", [(-20, -10), (7, 5), (0, 0)])
def test_place_equals_pillow_then_paste(name, new_wh, pad):
    """Against the definition: Pillow resizes the whole image, then the input shows what it shows."""
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (60, 100, 3), np.uint8), (0, 0), 0.7)
    ours = place(image, ResizeGeometry(new_wh[0] / 100, new_wh[1] / 60, *pad), new_wh, (128, 160), name)
    whole = Image.fromarray(image).resize(new_wh, FILTERS[name][0])
    expected = Image.new("RGB", (160, 128), (128, 128, 128))
    expected.paste(whole, pad)
    difference = np.abs(ours.astype(int) - np.asarray(expected))
    assert without_ties(difference, image, new_wh, (-pad[0], -pad[1]), name).max() <= 1


def test_a_window_of_a_large_image_is_that_of_the_whole():
    """Random windows of random sizes, each filter: at most one grey level from Pillow's."""
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 256, (601, 599, 3), np.uint8), (0, 0), 0.7)
    for name, (method, _) in FILTERS.items():
        for _ in range(6):
            new_w, new_h = rng.integers(110, 1300, 2).tolist()
            x1, y1 = int(rng.integers(0, new_w - 60)), int(rng.integers(0, new_h - 60))
            window = (x1, y1, int(rng.integers(x1 + 1, new_w + 1)), int(rng.integers(y1 + 1, new_h + 1)))
            ours = resample(image, (new_w, new_h), window, name)
            expected = np.asarray(Image.fromarray(image).resize((new_w, new_h), method).crop(window))
            difference = np.abs(ours.astype(int) - expected)
            assert without_ties(difference, image, (new_w, new_h), (x1, y1), name).max() <= 1


def test_filters_are_drawn_as_published():
    """Nearest twice, bilinear, bicubic and Lanczos; which it was is seen by comparing with each."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 90, 3), np.uint8)
    augment = TrainAugment(hue=0, saturation=1, value=1, flip=0, each_multiscale=False)
    looks = [
        augment.__class__(**{**vars(augment), "filters": (name,)})(
            np.random.default_rng(0), image, np.zeros((0, 4)), np.zeros(0, int), (64, 64)
        )[0].tobytes()
        for name in FILTERS
    ]
    assert len(set(looks)) == 4
    counts = dict.fromkeys(looks, 0)
    for seed in range(1000):
        canvas, _, _ = augment(
            np.random.default_rng(seed), image, np.zeros((0, 4)), np.zeros(0, int), (64, 64)
        )
        counts[canvas.tobytes()] += 1
    expected = np.array([400, 200, 200, 200])
    assert (np.abs([counts[look] for look in looks] - expected) < 4 * np.sqrt(expected * 0.8)).all()


def test_the_grey_around_a_image_changes_with_the_colours():
    """As published: colours are changed after the image lies on the grey."""
    image = np.full((20, 20, 3), 128, np.uint8)
    tables = colour_tables(0.05, 1.3, 0.7)
    canvas = place(image, ResizeGeometry(1, 1, 4, 6), (20, 20), (40, 40), "nearest", tables)
    assert (canvas == int(128 / 255 * 0.7 * 255)).all()


def test_small_objects_do_not_vanish_where_one_axis_shrinks():
    """Lines one pixel wide, each eighth column, shrunk eight times across while the image grows in height."""
    image = np.zeros((40, 320, 3), np.uint8)
    image[:, 3::8] = 240
    for name in ("bilinear", "bicubic", "lanczos"):
        canvas = place(image, ResizeGeometry(1 / 8, 1.5), (40, 60), (60, 40), name)
        assert (
            np.abs(canvas[:, 4:-4].astype(int) - 30) <= 8
        ).all()  # 240 / 8; samples between would be black


def test_colour_distortion_against_floats():
    """The tables against OpenCV's float HSV."""
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 3)
    assert np.abs(distort_colour(image, colour_tables(0.0, 1.0, 1.0)).astype(int) - image).max() <= 4
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 0.1 * 360) % 360
    hsv[..., 1] = np.minimum(hsv[..., 1] * 1.3, 1)
    hsv[..., 2] = np.minimum(hsv[..., 2] * 0.8, 1)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    assert np.abs(distort_colour(image, colour_tables(0.1, 1.3, 0.8)) - expected).mean() < 3


def test_clip_boxes_by_hand():
    boxes = np.array(
        [[-10, -10, 30, 30], [-30, 0, 10, 20], [90, 90, 140, 108], [5, 5, 5.5, 40], [-40, 5, 1, 40]],
        np.float32,
    )
    clipped, kept = clip_boxes(boxes, (100, 100))
    assert kept.tolist() == [True, True, True, False, False]
    assert clipped.tolist() == [[0, 0, 30, 30], [0, 0, 10, 20], [90, 90, 100, 100]]
    clipped, kept = clip_boxes(boxes, (100, 100), keep_cut=False)
    assert kept.tolist() == [True, False, False, False, False]
    assert clipped.tolist() == [[0, 0, 30, 30]]


@pytest.mark.parametrize("keep_cut", [True, False])
def test_crops_keep_what_is_left_of_cut_boxes_by_option(keep_cut):
    """A box as large as the image: what is left is kept although the centre may be outside."""
    image, boxes = (
        np.zeros((100, 100, 3), np.uint8),
        np.array([[0, 0, 100, 100], [0, 0, 100, 30]], np.float32),
    )
    augment = TrainAugment(flip=0, keep_cut=keep_cut)
    outside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        geometry, _, boxes_in, kept = augment._choose_crop(rng, image.shape, boxes, (96, 96))
        placed = geometry.forward(boxes)[kept]
        centres = (placed[:, :2] + placed[:, 2:]) / 2
        outside += ((centres < 0) | (centres >= 96)).any(axis=1).sum()
        np.testing.assert_allclose(boxes_in, np.clip(placed, 0, 96), atol=1e-3)
    assert outside > 20 if keep_cut else outside == 0


def test_the_whole_image_is_taken_where_no_draw_keeps_a_box():
    """A box of half a pixel in the input can be in no crop; the image is then stretched, as published."""
    rng = np.random.default_rng(0)
    image, boxes = rng.integers(0, 256, (300, 200, 3), np.uint8), np.array([[50, 60, 50.1, 60.1]], np.float32)
    augment = TrainAugment(hue=0, saturation=1, value=1, flip=0, filters=("bicubic",))
    for seed in range(20):
        canvas, found, _ = augment(np.random.default_rng(seed), image, boxes, np.zeros(1, int), (96, 128))
        assert len(found) == 0
        assert np.abs(canvas.astype(int) - stretch_for_eval(image, (96, 128))[0]).max() <= 4  # HSV in 8 bits


def test_a_image_without_objects_passes():
    canvas, boxes, classes = TrainAugment()(
        np.random.default_rng(0),
        np.zeros((50, 60, 3), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, int),
        (96, 96),
    )
    assert canvas.shape == (96, 96, 3) and boxes.shape == (0, 4) and len(classes) == 0
