"""Anchors of one's own data: overlap by brute force, known clusters found, never a worse fit than the start."""

import json
import time

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.commands.make_anchors import box_shapes, main
from src.config import load_config
from src.layers.anchors import (
    SECOND_PASS_OVERLAP,
    fit_of,
    kmeans_anchors,
    refine_anchors,
    shape_iou,
    sorted_anchors,
)
from src.targets import assign_targets
from src.transforms import letterbox, letterbox_geometry, stretch_for_eval, stretch_geometry
from src.yolo_dataset import load_detection_set, resolve_set
from tests.tiny import NAMES, write_tiles

PUBLISHED = np.array(load_config([]).anchor_scales)
sides = st.floats(0.5, 900, width=32)


def pixel_iou(first, second):
    """IoU of two whole-pixel shapes, by counting pixels of a canvas with a common corner (the same shapes overlap)."""
    canvas = np.zeros((2, 64, 64), bool)
    for layer, (width, height) in zip(canvas, (first, second)):
        layer[:height, :width] = True
    return (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()


def test_overlap_is_that_of_counted_pixels():
    rng = np.random.default_rng(0)
    boxes, anchors = rng.integers(1, 64, (20, 2)), rng.integers(1, 64, (9, 2))
    expected = [[pixel_iou(box, anchor) for box in boxes] for anchor in anchors]
    assert shape_iou(boxes.astype(np.float64), anchors) == pytest.approx(np.array(expected), abs=1e-12)
    assert shape_iou(boxes.astype(np.float32), anchors) == pytest.approx(np.array(expected), abs=1e-6)


def test_fit_counts_by_hand():
    fit = fit_of(np.array([[10, 10], [10, 5], [10, 1], [40, 40]], np.float32), np.array([[10, 10], [80, 80]]))
    # IoU 1, 1/2, 1/10, 1/4
    assert (fit.recall, fit.over_half) == (0.75, 0.25)
    assert fit.mean_iou == pytest.approx((1 + 0.5 + 0.1 + 0.25) / 4)
    assert fit.share.tolist() == [0.75, 0.25]


def test_recall_is_what_the_assignment_of_targets_does():
    """A box goes to a second anchor exactly where that anchor's overlap is over the threshold."""
    rng = np.random.default_rng(3)
    for width, height in rng.integers(8, 300, (12, 2)):
        box = [304 - width / 2, 304 - height / 2, 304 + width / 2, 304 + height / 2, 0]
        dense, _ = assign_targets(np.array([box]), (608, 608), 1)
        overlap = shape_iou(np.array([[width, height]], np.float64), PUBLISHED)[:, 0]
        expected = max(1, (overlap > SECOND_PASS_OVERLAP).sum())
        assert sum(int(level[..., 4].sum()) for level in dense) == expected


CENTRES = np.array(
    [[8, 9], [20, 12], [14, 40], [45, 44], [90, 40], [60, 130], [180, 160], [400, 150], [300, 420]]
)


def clustered(count=3000, seed=0, spread=0.03):
    rng = np.random.default_rng(seed)
    boxes = CENTRES[rng.integers(0, 9, count)] * np.exp(rng.normal(0, spread, (count, 2)))
    return boxes.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_known_clusters_are_found(seed):
    boxes = clustered(seed=seed)
    rng = np.random.default_rng(seed)
    found = refine_anchors(boxes, kmeans_anchors(boxes, PUBLISHED, rng), rng)
    assert fit_of(boxes, found).mean_iou >= fit_of(boxes, CENTRES).mean_iou - 0.002
    assert np.abs(np.log(found / sorted_anchors(CENTRES))).max() < 0.07  # 1 of 8 pixels is rounding, and more


def test_few_boxes_reach_the_best_of_all_choices():
    """Brute force over every pair of whole-pixel anchors on a small grid."""
    boxes = np.array([[3, 3], [3, 4], [4, 3], [9, 8], [8, 9], [9, 9], [2, 9]], np.float32)
    grid = [(w, h) for w in range(1, 11) for h in range(1, 11)]
    table = shape_iou(boxes, np.array(grid))
    best = max(np.maximum(table[i], table[j]).mean() for i in range(len(grid)) for j in range(i))
    start = np.array([[5, 5], [6, 6]])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        # A step of one pixel of four is rare at the usual mutations, hence the generations.
        found = refine_anchors(boxes, kmeans_anchors(boxes, start, rng), rng, 5000)
        assert fit_of(boxes, found).mean_iou == pytest.approx(best, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(st.tuples(sides, sides), min_size=9, max_size=60),
    start=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 600)), min_size=9, max_size=9),
    seed=st.integers(0, 9),
)
def test_never_below_the_start(boxes, start, seed):
    """In recall and in mean IoU, after k-means, after the refinement, also of few different boxes."""
    boxes, start = np.array(boxes, np.float32), np.array(start)
    rng = np.random.default_rng(seed)
    before, found = fit_of(boxes, start), start
    for step in (kmeans_anchors, lambda *words: refine_anchors(*words, 50)):
        found = step(boxes, found, rng)
        after = fit_of(boxes, found)
        assert after.recall >= before.recall and after.mean_iou >= before.mean_iou - 1e-7
        assert found.shape == (9, 2) and found.dtype.kind == "i" and found.min() >= 1
        areas = found.prod(axis=1)
        assert (np.diff(areas) >= 0).all()
        before = after


def test_refinement_goes_on_where_clustering_stops():
    rng = np.random.default_rng(0)
    boxes = np.exp(rng.normal(3, 0.9, (4000, 2))).astype(np.float32)
    found = refine_anchors(boxes, PUBLISHED, rng, 1500)
    before, after = fit_of(boxes, PUBLISHED), fit_of(boxes, found)
    assert after.mean_iou > before.mean_iou + 0.05 and after.recall >= before.recall


def test_same_seed_same_anchors_and_a_hundred_thousand_boxes_in_seconds():
    boxes = np.exp(np.random.default_rng(0).normal(3, 0.8, (100_000, 2))).astype(np.float32)
    start = time.perf_counter()
    first = kmeans_anchors(boxes, PUBLISHED, np.random.default_rng(1))
    refined = refine_anchors(boxes, first, np.random.default_rng(1), 300)
    assert time.perf_counter() - start < 60  # measured: 4 s
    assert np.array_equal(refined, refine_anchors(boxes, first, np.random.default_rng(1), 300))
    assert fit_of(boxes, first).mean_iou > fit_of(boxes, PUBLISHED).mean_iou + 0.05


def test_too_few_boxes():
    with pytest.raises(UserError, match="8 boxes are too few for 9 anchors"):
        kmeans_anchors(np.ones((8, 2)), PUBLISHED, np.random.default_rng(0))


@pytest.mark.parametrize("size", [(150, 120), (600, 600), (31, 977), (1000, 7)])
@pytest.mark.parametrize("input_hw", [(96, 96), (416, 608)])
def test_geometry_is_that_of_the_resize(size, input_hw):
    """By what the resize does to an image, not by its formula: the grey border ends where the geometry says."""
    width, height = size
    image = np.zeros((height, width, 3), np.uint8)
    canvas, geometry = letterbox(image, input_hw)
    assert geometry == letterbox_geometry(width, height, input_hw)
    rows, columns = np.nonzero(canvas[..., 0] == 0)
    x1, y1, x2, y2 = geometry.forward(np.array([[0, 0, width, height]]))[0]
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx((x1, y1, x2, y2))
    canvas, geometry = stretch_for_eval(image, input_hw)
    assert geometry == stretch_geometry(width, height, input_hw) and canvas.shape[:2] == input_hw


def test_box_shapes_of_a_set(tmp_path):
    root = write_tiles(tmp_path / "set")  # every box 36 x 26 in images of 150 x 120
    dataset = load_detection_set(*resolve_set(root, "train"), NAMES)
    stretched = box_shapes(dataset, (96, 96), False)
    assert len(stretched) == 18
    assert stretched == pytest.approx(np.tile([36 * 96 / 150, 26 * 96 / 120], (18, 1)), rel=1e-5)
    boxed = box_shapes(dataset, (96, 96), True)
    assert boxed == pytest.approx(np.tile([36 * 96 / 150, 26 * 77 / 120], (18, 1)), rel=1e-5)


def test_the_tool_prints_a_line_that_training_reads(tmp_path, capsys):
    root = write_tiles(tmp_path / "set", train=8)
    document = json.loads((root / "annotations" / "train.json").read_text())
    rng = np.random.default_rng(0)
    for entry in document["annotations"]:
        entry["bbox"][2:] = rng.integers(4, 26, 2).tolist()
    (root / "annotations" / "train.json").write_text(json.dumps(document))
    shown = []
    for method in ("kmeans", "genetic"):
        assert main([f"--data_dir={root}", f"--method={method}", "--input=416", "--seed=3"]) == 0
        shown.append(capsys.readouterr().out)
    line = shown[1].splitlines()[-1]
    (tmp_path / "anchors.yaml").write_text(line)
    config = load_config([f"--config={tmp_path / 'anchors.yaml'}"])
    assert config.anchor_scales == yaml.safe_load(line)["anchor_scales"] != PUBLISHED.tolist()
    before, after = (
        fit_of(
            box_shapes(load_detection_set(*resolve_set(root, "train"), NAMES), (416, 416), False),
            np.array(anchors),
        )
        for anchors in (PUBLISHED, config.anchor_scales)
    )
    assert f"{before.mean_iou:.4f}   {after.mean_iou:.4f}" in shown[1] and after.mean_iou > before.mean_iou
    assert "24 boxes in an input of 416x416 (stretch), genetic" in shown[1]
    # Its own result is the start of a second run, which cannot be worse.
    assert (
        main(
            [f"--data_dir={root}", f"--config={tmp_path / 'anchors.yaml'}", "--input=416", "--generations=0"]
        )
        == 0
    )
    assert "the present anchors are as good" in capsys.readouterr().out


def test_mistakes_are_named(tmp_path, capsys):
    assert main([f"--data_dir={tmp_path / 'nothing'}"]) == 2
    assert "data_dir: " in capsys.readouterr().err
    root = write_tiles(tmp_path / "set", train=2)
    assert main([f"--data_dir={root}", "--nonsense=1"]) == 2
    assert "nonsense: unknown option" in capsys.readouterr().err
    assert main([f"--data_dir={root}"]) == 2
    assert "6 boxes are too few for 9 anchors" in capsys.readouterr().err
