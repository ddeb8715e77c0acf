"""The perspective recipe: boxes follow the pixels (found by drawn markers), and what its numbers mean."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config import load_config
from src.perspective import PerspectiveAugment, gain_colour, shrink_or_grow, warp, warp_boxes
from src.train.train_setup import create_augment
from src.transforms import GREY, TrainAugment, mix
from tests import ROOT
from tests.markers import corner_points, find, marked

NO_COLOUR = {"hue_gain": 0.0, "saturation_gain": 0.0, "value_gain": 0.0}
PLAIN = PerspectiveAugment(translate=0.0, scale=0.0, flip=0.0, **NO_COLOUR)
VIEWS = {
    "upright": {},
    "turned": {"degrees": 40.0, "shear": 8.0},
    "bent": {"degrees": 10.0, "shear": 3.0, "perspective": 0.0006},
}


def applied(augment, seed, samples, input_hw):
    rng = np.random.default_rng(seed)
    return augment.finish(rng, augment.join(rng, samples, input_hw))


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("view", VIEWS)
def test_boxes_lie_on_the_markers_of_their_corners(view, images):
    """Each corner's marker is looked for in the whole output; their extremes are the box, to half a pixel."""
    augment = PerspectiveAugment(scale=0.6, **NO_COLOUR, **VIEWS[view])
    compared = []

    @given(
        w=st.integers(100, 600),
        h=st.integers(100, 600),
        seed=st.integers(0, 10**6),
        input_hw=st.sampled_from([(160, 160), (192, 160), (288, 320)]),
        place=st.tuples(*[st.floats(0, 1)] * 4),
        corner=st.integers(0, images - 1),
    )
    @settings(max_examples=60 if images == 1 else 160, deadline=None, derandomize=True)
    def check(w, h, seed, input_hw, place, corner):
        radius = math.ceil(3.75 / min(input_hw[0] / h, input_hw[1] / w))
        near = [round(radius + share * (side / 3 - radius)) for share, side in zip(place[:2], (w, h))]
        far = [round(side * 2 / 3 + share * (side / 3 - radius)) for share, side in zip(place[2:], (w, h))]
        points = corner_points((*near, *far))
        found = []
        for shown in (points[:3], points[3:]):  # three channels, four corners: drawn twice, same seed
            samples = [(marked(150 + 40 * i, 260, [], 0), np.zeros((0, 4), np.float32), np.zeros(0, int))
                       for i in range(images)]  # fmt: skip
            samples[corner] = (
                marked(w, h, shown, radius),
                np.array([[*near, *far]], np.float32),
                np.array([7]),
            )
            image, boxes, classes = applied(augment, seed, samples, input_hw)
            assert image.shape == (*input_hw, 3) and image.dtype == np.uint8 and boxes.dtype == np.float32
            found += [find(image, channel) for channel in range(len(shown))]
        if None in found:
            return
        brightness = [marker[1] for marker in found]
        if view != "bent" and min(brightness) < 0.93 * max(brightness):
            return  # cut by the canvas's edge
        if view == "bent" and images > 1 and min(brightness) < 0.5 * max(brightness):
            return
        centres = np.array([marker[0] for marker in found])
        assert classes.tolist() == [7]
        expected = [*centres.min(axis=0), *centres.max(axis=0)]
        np.testing.assert_allclose(boxes[0], expected, atol=0.5)
        compared.append(np.abs(boxes[0] - expected).max())

    check()
    assert len(compared) >= 15
    assert np.mean(compared) < 0.15


@pytest.mark.parametrize("images", [1, 4])
def test_every_pixel_in_a_box_shows_its_place_in_the_image(images):
    """Red grows across, green down: within a box the colours are those of its part of the image."""
    augment = PerspectiveAugment(scale=0.6, flip=0.0, **NO_COLOUR)
    compared = 0
    for seed in range(60):
        w, h = np.random.default_rng(seed).integers(150, 500, 2)
        image = np.zeros((h, w, 3), np.uint8)
        image[..., 0] = np.round((np.arange(w) + 0.5) / w * 250)
        image[..., 1] = np.round((np.arange(h) + 0.5) / h * 250)[:, None]
        box = np.array([[w // 4, h // 4, 3 * w // 4, 3 * h // 4]], np.float32)
        samples = [(image, box, np.array([number])) for number in range(images)]
        canvas, boxes, _ = augment.join(np.random.default_rng(seed), samples, (224, 224))
        for x1, y1, x2, y2 in boxes:
            shape = (x2 - x1) / (y2 - y1) / (w / h)
            if min(x1, y1) < 1 or max(x2, y2) > 223 or abs(shape - 1) > 0.05:
                continue  # cut by the input or the canvas
            columns = np.arange(math.ceil(x1), math.floor(x2))
            rows = np.arange(math.ceil(y1), math.floor(y2))
            part = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
            across = (box[0, 0] + (columns + 0.5 - x1) / (x2 - x1) * (box[0, 2] - box[0, 0])) / w * 250
            down = (box[0, 1] + (rows + 0.5 - y1) / (y2 - y1) * (box[0, 3] - box[0, 1])) / h * 250
            assert np.abs(part[..., 0] - across).max() < 4 and np.abs(part[..., 1] - down[:, None]).max() < 4
            compared += 1
    assert compared >= 30


def test_without_change_a_image_of_the_inputs_size_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    boxes = np.array([[3, 4, 60, 50]], np.float32)
    canvas, found, classes = PLAIN.join(np.random.default_rng(0), [(image, boxes, np.array([2]))], (96, 128))
    assert np.array_equal(canvas, image) and np.array_equal(found, boxes) and classes.tolist() == [2]
    canvas, found, _ = PLAIN.join(np.random.default_rng(0), [(image, boxes, np.array([2]))], (256, 256))
    assert found.tolist() == [[6, 32 + 8, 120, 32 + 100]]  # 128x96 doubled, in the middle of 256x256
    assert (canvas[:32] == GREY).all() and (canvas[-32:] == GREY).all()


def test_a_mosaic_is_around_a_point_in_the_middle_half_of_its_canvas():
    """At zoom 1 the input shows that half: four colours that meet anywhere in it."""
    points = []
    for seed in range(80):
        samples = [(np.full((64, 64, 3), level, np.uint8), np.array([[0, 0, 64, 64]], np.float32), np.array([level]))
                   for level in (10, 60, 110, 160)]  # fmt: skip
        canvas, boxes, classes = PLAIN.join(np.random.default_rng(seed), samples, (64, 64))
        x, y = int((canvas[0, :, 0] == 10).sum()), int((canvas[:, 0, 0] == 10).sum())
        points.append((x, y))
        expected = np.empty((64, 64), np.uint8)
        expected[:y, :x], expected[:y, x:], expected[y:, :x], expected[y:, x:] = 10, 60, 110, 160
        if min(x, y) > 0:
            assert np.array_equal(canvas[..., 0], expected)
        for (x1, y1, x2, y2), level in zip(boxes, classes):
            assert (canvas[int(y1) : int(y2), int(x1) : int(x2), 0] == level).all()
    points = np.array(points)
    assert (points.min(axis=0) < 8).all() and (points.max(axis=0) > 56).all()
    assert np.abs(points.mean(axis=0) - 32).max() < 8  # deviation of the mean is 2


def test_zoom_and_shift_are_drawn_from_their_ranges():
    """A centred box of a square image: its side is the zoom, its middle the shift."""
    augment = PerspectiveAugment(translate=0.1, scale=0.5)
    image, box = np.zeros((200, 200, 3), np.uint8), np.array([[80, 80, 120, 120]], np.float32)
    zooms, shifts = [], []
    for seed in range(300):
        _, found, _ = augment.join(np.random.default_rng(seed), [(image, box, np.zeros(1, int))], (200, 200))
        zooms.append((found[0, 2:] - found[0, :2]) / 40)
        shifts.append((found[0, 2:] + found[0, :2]) / 2 - 100)
    assert 0.48 < np.min(zooms) < 0.53 and 1.47 < np.max(zooms) < 1.52
    assert -21 <= np.min(shifts) < -18 and 18 < np.max(shifts) <= 21  # 20, and whole pixels of the canvas
    assert abs(np.mean(zooms) - 1) < 0.06 and np.abs(np.mean(shifts, axis=0)).max() < 2.7  # four deviations


def test_warp_takes_pixels_at_their_centres():
    """A quarter turn of points about the middle is a quarter turn of pixels."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    quarter = np.array([[0, 1, 0], [-1, 0, 64], [0, 0, 1]], float)  # (x, y) to (y, 64 - x)
    assert np.array_equal(warp(image, quarter, (64, 64)), np.rot90(image))
    assert np.array_equal(warp(image, 2 * quarter, (64, 64)), np.rot90(image))  # homogeneous
    bent = quarter.copy()
    bent[2, 0] = 1e-12
    assert np.array_equal(warp(image, bent, (64, 64)), np.rot90(image))


def test_warped_boxes_by_hand():
    matrix = np.array([[1, 0, 0], [0, 1, 0], [0.001, 0, 1]])  # (100, 50) to (100, 50) / 1.1
    boxes, kept = warp_boxes(np.array([[0, 0, 100, 50]], np.float32), matrix, 1.0, (200, 200))
    np.testing.assert_allclose(boxes, [[0, 0, 100 / 1.1, 50]], rtol=1e-6)  # the left edge keeps its height
    assert kept.tolist() == [True]
    turn = np.array([[0, 2, 0], [-2, 0, 100], [0, 0, 1]])  # (x, y) to (2 y, 100 - 2 x)
    boxes, _ = warp_boxes(np.array([[10, 20, 30, 25]], np.float32), turn, 2.0, (200, 200))
    assert boxes.tolist() == [[40, 40, 50, 80]]


@pytest.mark.parametrize(
    "box,zoom,stays",
    [
        ([10, 10, 12, 30], 1.0, False),  # 2 pixels wide
        ([10, 10, 12.1, 30], 1.0, True),
        ([-90, 10, 10, 30], 1.0, False),  # a tenth of its area is left
        ([-88, 10, 10, 30], 1.0, True),
        ([10, 10, 30, 30], 3.2, False),  # shows 400 of 400 x 3.2 x 3.2
        ([10, 10, 30, 30], 3.1, True),
        ([10, 10, 70, 13], 1.0, False),  # 20 times as wide as high
        ([10, 10, 69.9, 13], 1.0, True),
        ([120, 10, 150, 30], 1.0, False),  # outside
    ],
)
def test_which_boxes_stay(box, zoom, stays):
    found, kept = warp_boxes(np.array([box], np.float32), np.eye(3), zoom, (100, 100))
    assert kept.tolist() == [stays] and len(found) == stays


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scale", [0.0, 0.9, 0.999])
def test_images_without_objects_and_of_any_shape_pass(view, scale):
    augment = PerspectiveAugment(scale=scale, **VIEWS[view])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        samples = []
        for _ in range(4):
            h, w = rng.integers(1, 400, 2)
            samples.append((np.zeros((h, w, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int)))
        for count in (1, 4):
            canvas, boxes, classes = applied(augment, seed, samples[:count], (96, 128))
            assert canvas.shape == (96, 128, 3) and boxes.shape == (0, 4) and len(classes) == 0


def test_shrinking_averages():
    """Lines one pixel wide, each eighth column: samples between them would be black."""
    image = np.zeros((40, 320, 3), np.uint8)
    image[:, 3::8] = 240
    assert (shrink_or_grow(image, (40, 5)) == 30).all()  # 240 / 8
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8), (0, 0), 4)
    for size in ((280, 190), (151, 101), (149, 99), (80, 50), (31, 22), (299, 180), (450, 300)):
        filters = cv2.INTER_AREA if size[0] < 300 else cv2.INTER_LINEAR
        expected = cv2.resize(smooth, size, interpolation=filters).astype(int)
        assert np.abs(shrink_or_grow(smooth, size) - expected).max() <= 8


# ---------------------------------------------------------------- colour


def test_colour_gains_by_hand():
    """Hue is a multiple of two degrees, 0 to 179; red is 0, green 60, blue 120."""
    row = np.array([[[255, 0, 0], [0, 200, 0], [0, 0, 200], [100, 100, 100], [200, 100, 100]]], np.uint8)
    assert np.array_equal(gain_colour(row, 1.0, 1.0, 1.0), row)
    turned = gain_colour(row, 1.5, 1.0, 1.0)  # 0, 90 (cyan), 180 = 0 (red); grey has none
    assert turned.tolist() == [[[255, 0, 0], [0, 200, 200], [200, 0, 0], [100, 100, 100], [200, 100, 100]]]
    darker = gain_colour(row, 1.0, 1.0, 0.5)
    assert darker.tolist() == [[[128, 0, 0], [0, 100, 0], [0, 0, 100], [50, 50, 50], [100, 50, 50]]]
    brighter = gain_colour(row, 1.0, 1.0, 1.4)  # at most 255
    assert brighter.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [140, 140, 140], [255, 128, 128]]]
    paler = gain_colour(row, 1.0, 0.5, 1.0)  # saturation 128 of 255; 64 for the last
    assert (
        np.abs(
            paler[0].astype(int)
            - [[255, 127, 127], [100, 200, 100], [100, 100, 200], [100] * 3, [200, 150, 150]]
        ).max()
        <= 1
    )


@pytest.mark.parametrize(
    "index,name,gain", [(0, "hue_gain", 0.3), (1, "saturation_gain", 0.7), (2, "value_gain", 0.4)]
)
def test_colour_gains_are_drawn_from_their_ranges(index, name, gain):
    """One colour, half the range in each of hue (60 of 180), saturation and value; one gain alone."""
    augment = PerspectiveAugment(**{**NO_COLOUR, name: gain})
    start = np.array([60, 100, 120], np.uint8)
    image = cv2.cvtColor(np.full((2, 2, 3), start, np.uint8), cv2.COLOR_HSV2RGB)
    none = np.zeros((0, 4), np.float32), np.zeros(0, int)
    factors = []
    for seed in range(200):
        changed, _, _ = augment.finish(np.random.default_rng(seed), (image, *none))
        hsv = cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)[0, 0]
        factors.append(hsv / start)
    factors = np.array(factors)
    assert 1 - gain - 0.03 < factors[:, index].min() < 1 - 0.9 * gain
    assert 1 + 0.9 * gain < factors[:, index].max() < 1 + gain + 0.03
    others = np.delete(factors, index, axis=1)
    assert np.abs(others - 1).max() < 0.04


# ---------------------------------------------------------------- mixup


@given(
    share=st.floats(0, 1),
    first=st.integers(0, 255),
    second=st.integers(0, 255),
    counts=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
@settings(max_examples=40, deadline=None)
def test_a_blend_keeps_all_boxes_and_mixes_by_share(share, first, second, counts):
    rng = np.random.default_rng(0)
    samples = [
        (np.full((8, 8, 3), level, np.uint8), rng.random((count, 4)).astype(np.float32), np.arange(count) + offset)
        for level, count, offset in zip((first, second), counts, (0, 100))
    ]  # fmt: skip
    image, boxes, classes = mix(*samples, share)
    assert image.dtype == np.uint8 and np.abs(image - (share * first + (1 - share) * second)).max() <= 0.51
    assert np.array_equal(boxes, np.concatenate([samples[0][1], samples[1][1]])) and boxes.dtype == np.float32
    assert classes.tolist() == [*range(counts[0]), *range(100, 100 + counts[1])]


# ---------------------------------------------------------------- options


def test_options_reach_the_recipe():
    words = [
        "--augmentation=perspective", "--perspective_degrees=1", "--perspective_translate=0.2",
        "--perspective_scale=0.3", "--perspective_shear=4", "--perspective_warp=0.0005", "--perspective_hue=0.6",
        "--perspective_saturation=0.65", "--perspective_value=0.8", "--augment_flip=0.9",
        "--mosaic=0.11", "--mixup=0.12",
    ]  # fmt: skip
    expected = PerspectiveAugment(1, 0.2, 0.3, 4, 0.0005, 0.6, 0.65, 0.8, 0.9, 0.11, 0.12)
    assert create_augment(load_config(words)) == expected
    words = [
        "--mosaic=1",
        "--mixup=0.2",
        "--augment_flip=0.1",
        "--jitter=0.4",
        "--cut_boxes=drop",
        "--resize_filters=nearest",
    ]
    crop = create_augment(load_config(words))
    assert crop == TrainAugment(
        jitter=0.4, flip=0.1, mosaic=1.0, mixup=0.2, keep_cut=False, filters=("nearest",)
    )
    assert create_augment(load_config([])) == TrainAugment()  # the published recipe is the default


@pytest.mark.parametrize("name", ["yolov4", "yolov4-silu"])
def test_the_coco_recipe(name):
    config = load_config([f"--config_path={ROOT / 'configs' / 'yolov4' / name}.yaml"])
    assert create_augment(config) == PerspectiveAugment(
        degrees=0, translate=0.1, scale=0.9, shear=0, perspective=0, hue_gain=0.015, saturation_gain=0.7,
        value_gain=0.4, flip=0.5, mosaic=1, mixup=0.1, grey=114,
    )  # fmt: skip
    assert (config.per_batch_size, config.train_shapes, config.eval_input_hw) == (
        16,
        [(608, 608)],
        (608, 608),
    )
    assert (config.max_box, config.ignore_threshold, config.num_classes) == (160, 0.7, 80)
    assert (config.letterbox, config.letterbox_style) == (True, "mindyolo")
    assert (config.image_mean, config.image_std) == ([0, 0, 0], [1, 1, 1])  # pixels times 1/255
    assert (config.lr, config.lr_scheduler, config.warmup_epochs) == (0.012, "cosine_annealing", 20)
