"""Images of boxes: what is drawn where, and what is left clear."""

import numpy as np

from src.imaging.visualize import class_colour, draw_boxes, side_by_side

NAMES = ("plane", "ship", "harbor")


def grey(side=300):
    return np.full((side, side, 3), 90, np.uint8)


def is_changed(before, after):
    return (before != after).any(axis=-1)


def test_colours_of_the_classes_are_distinct_and_bright():
    colours = np.array([class_colour(index) for index in range(16)], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(16, dtype=bool)].min() > 35
    assert (colours.max(axis=1) > 200).all()
    assert class_colour(3) == class_colour(3)


def test_box_is_outlined_in_the_colour_of_its_class_and_the_input_is_left_alone():
    image = grey()
    before = image.copy()
    drawn = draw_boxes(image, np.array([[50.2, 80.4, 120.0, 160.0]]), np.array([1]), NAMES, np.array([0.75]))
    assert (image == before).all()
    for x, y in ((50, 120), (120, 120), (90, 160), (90, 80)):
        assert tuple(drawn[y, x]) == class_colour(1)
    assert not is_changed(image, drawn)[90:150, 60:110].any()  # the object stays visible
    assert is_changed(image, drawn)[60:79, 50:100].any()  # its label stands above it


def test_labels_cover_no_other_object():
    rng = np.random.default_rng(0)
    corner = rng.uniform(10, 270, (35, 2))
    boxes = np.concatenate([corner, corner + 18], axis=1)
    image = grey()
    drawn = draw_boxes(image, boxes, rng.integers(0, 3, 35), NAMES, rng.random(35))
    outlines = draw_boxes(image, boxes, np.zeros(35, int), ("",), None)
    changed = is_changed(image, drawn) & ~is_changed(image, outlines)
    legend = np.zeros(image.shape[:2], bool)
    legend[:60, :80] = legend[:60, -80:] = legend[-60:, :80] = legend[-60:, -80:] = True
    for x1, y1, x2, y2 in np.round(boxes).astype(int):
        inside = np.zeros_like(legend)
        inside[y1 + 1 : y2, x1 + 1 : x2] = True
        assert not (changed & inside & ~legend).any()


def test_crowded_class_has_a_legend_instead_of_labels():
    boxes = np.array(
        [[40 + 14 * x, 60 + 14 * y, 50 + 14 * x, 70 + 14 * y] for x in range(15) for y in range(15)]
    )
    image = grey()
    drawn = draw_boxes(image, boxes, np.ones(225, int), NAMES, np.full(225, 0.5))
    changed = is_changed(image, drawn)
    for x1, y1, x2, y2 in boxes:
        assert not changed[y1 + 1 : y2, x1 + 1 : x2].any()
    assert changed[:16, :36].all()  # the legend, in the corner without boxes
    assert (drawn[:20, :45] == class_colour(1)).all(axis=-1).any()


def test_boxes_beyond_the_image_and_none_at_all():
    image = grey(40)
    wild = np.array([[-1e9, -5, 1e9, 1e12], [10, 10, 10, 10]], np.float32)
    assert draw_boxes(image, wild, np.array([0, 2]), NAMES).shape == image.shape
    assert (draw_boxes(image, np.zeros((0, 4)), np.zeros(0, int), NAMES, np.zeros(0)) == image).all()


def test_side_by_side_keeps_both_images():
    left, right = np.full((50, 60, 3), 10, np.uint8), np.full((50, 60, 3), 200, np.uint8)
    both = side_by_side(left, right, ("ground truth: 1", "detections: 2"))
    assert (both[-50:, :60] == left).all() and (both[-50:, -60:] == right).all()
    assert is_changed(both[:-50], np.full_like(both[:-50], 32)).any()  # titles
