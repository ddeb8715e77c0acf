"""The drawn sample: reproducible, plausible, and its labels lie on its objects."""

from collections import Counter

import numpy as np
import pytest

from src.datasets.dota_labels import CLASSES_V1_5
from src.datasets.sample import objects
from src.datasets.sample.canvas import Canvas
from src.datasets.sample.scenes import draw_scene


def test_a_seed_draws_the_same_scene_and_another_one_does_not():
    first, labels = draw_scene(3, 600)
    again, labels_again = draw_scene(3, 600)
    other, _ = draw_scene(8, 600)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert [entry.polygon.tolist() for entry in labels] == [entry.polygon.tolist() for entry in labels_again]


def test_scenes_have_many_classes_and_crowds():
    totals, crowded = Counter(), 0
    for seed in range(10):
        image, labels = draw_scene(seed, 800)
        assert image.shape == (800, 800, 3) and image.std() > 15
        totals.update(entry.name for entry in labels)
        crowded = max(crowded, len(labels))
    assert set(totals) <= set(CLASSES_V1_5)
    assert len(totals) >= 8
    assert crowded > 100


@pytest.mark.parametrize(
    "draw,length",
    [(objects.plane, 150), (objects.ship, 80), (objects.car, 28), (objects.truck, 80),
     (objects.basketball_court, 150), (objects.baseball_diamond, 180), (objects.swimming_pool, 50)],
)  # fmt: skip
@pytest.mark.parametrize("turn", [0.0, 0.7])
def test_outline_is_where_the_pixels_changed(draw, length, turn):
    """The drawn pixels fill the outline's bounding box to within two pixels."""
    ground = np.full((400, 400, 3), 1, np.uint8)
    canvas = Canvas(ground, (5, 5), turn)
    outline = canvas.seen(draw(canvas, np.random.default_rng(0), (200.0, 190.0), 0.0, float(length)))
    rows, columns = np.nonzero((canvas.image != 1).any(axis=2))
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 2
    label = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
    assert (drawn[:2] >= label[:2] - 2).all() and (drawn[2:] <= label[2:] + 2).all()
    if turn == 0.0:
        share = np.prod(drawn[2:] - drawn[:2]) / np.prod(label[2:] - label[:2])
        assert share > 0.85


def test_a_tennis_court_is_labelled_by_its_lines():
    canvas = Canvas(np.full((300, 300, 3), 1, np.uint8), (5, 5))
    outline = objects.tennis_court(canvas, np.random.default_rng(0), (150.0, 140.0), 0.0, 180.0)
    rows, columns = np.nonzero((canvas.image > 200).all(axis=2))  # white
    drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 2
    np.testing.assert_allclose(drawn, np.concatenate([outline.min(axis=0), outline.max(axis=0)]), atol=2)


def test_overwrite_removes_what_it_made_and_nothing_else(tmp_path):
    from src.commands.make_sample import remove_sample

    for name in ("images/S0001.png", "labelTxt/S0001.txt", "images/mine.png", "notes.txt", "labelTxt/S1.txt"):
        (tmp_path / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).touch()
    remove_sample(tmp_path / "train")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["train/images/mine.png", "train/labelTxt/S1.txt", "train/notes.txt"]
    for name in left:
        (tmp_path / name).unlink()
    remove_sample(tmp_path / "train")
    assert not (tmp_path / "train").exists()
