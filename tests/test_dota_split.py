"""Scenes to tiles: coordinates, the visible-share rule, counts, and that workers change nothing."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.datasets.dota_labels import CLASSES_V1_5, DotaObject, read_labels, write_labels
from src.datasets.dota_split import SplitOptions, split_set, tile_objects
from src.imaging.image_io import read_rgb, write_image
from src.imaging.tiling import tile_starts

OPTIONS = SplitOptions(CLASSES_V1_5)


def box_object(x1, y1, x2, y2, name="ship", difficult=False):
    return DotaObject(np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float), name, difficult)


def make_set(root, scenes):
    """scenes: name -> (image, objects)."""
    for folder in ("images", "labelTxt"):
        (root / folder).mkdir(parents=True)
    for name, (image, objects) in scenes.items():
        write_image(root / "images" / f"{name}.png", image)
        write_labels(root / "labelTxt" / f"{name}.txt", objects)
    return root


def random_scenes(count=3, seed=0):
    rng = np.random.default_rng(seed)
    scenes = {}
    for number in range(count):
        image = rng.integers(0, 256, (700 + 90 * number, 1150, 3), np.uint8)
        corners = rng.uniform(0, 600, (40, 2))
        objects = [box_object(x, y, x + 30, y + 20, CLASSES_V1_5[k % 16], k % 5 == 0)
                   for k, (x, y) in enumerate(corners)]  # fmt: skip
        scenes[f"P{number}"] = (image, objects)
    return scenes


@given(length=st.integers(1, 5000), size=st.integers(32, 900), overlap=st.floats(0, 0.8))
def test_tiles_cover_a_side_and_overlap_enough(length, size, overlap):
    starts = tile_starts(length, size, overlap)
    assert starts[0] == 0 and starts == sorted(set(starts))
    if length <= size:
        assert starts == [0]
        return
    assert starts[-1] + size == length
    assert all(
        after - before <= max(1, round(size * (1 - overlap))) for before, after in itertools.pairwise(starts)
    )


@settings(max_examples=100)
@given(
    x=st.floats(0, 1880), y=st.floats(0, 1280), w=st.floats(1, 120), h=st.floats(1, 120),
)  # fmt: skip
def test_an_object_smaller_than_the_overlap_is_whole_on_some_tile(x, y, w, h):
    entry = box_object(x, y, x + w, y + h)
    whole = 0
    for top in tile_starts(1400, 600, 0.2):
        for left in tile_starts(2000, 600, 0.2):
            for _, box, is_target in tile_objects([entry], entry.box[None], left, top, 600, 600, 0.7):
                inside = np.allclose(box + (left, top, left, top), entry.box, atol=1e-9)
                whole += inside
                assert is_target or not inside
    assert whole >= 1


@pytest.mark.parametrize("visible,is_target", [(0.69, False), (0.71, True), (1.0, True)])
def test_a_cut_object_is_a_target_or_ignored_by_its_visible_share(tmp_path, visible, is_target):
    """A box of 100 x 40 that reaches over the right border of the first tile at x = 600."""
    x = 600 - 100 * visible
    src = make_set(
        tmp_path / "src", {"A": (np.zeros((600, 900, 3), np.uint8), [box_object(x, 50, x + 100, 90)])}
    )
    split_set(src, tmp_path / "out", "train", OPTIONS)
    document = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert [entry["offset"] for entry in document["images"]] == [[0, 0], [300, 0]]
    first = next(entry for entry in document["annotations"] if entry["image_id"] == 1)
    assert first["iscrowd"] == first["ignore"] == int(not is_target)
    np.testing.assert_allclose(first["bbox"], [x, 50, 100 * visible, 40], atol=0.01)
    second = next(entry for entry in document["annotations"] if entry["image_id"] == 2)
    np.testing.assert_allclose(second["bbox"], [x - 300, 50, 100, 40], atol=0.01)
    assert second["iscrowd"] == 0


def test_pixels_and_boxes_stay_together(tmp_path):
    """A white object on black: in every tile, the white pixels are those of its box."""
    image = np.zeros((1000, 1300, 3), np.uint8)
    image[430:470, 520:590] = 255
    src = make_set(tmp_path / "src", {"A": (image, [box_object(520, 430, 590, 470)])})
    counts = split_set(src, tmp_path / "out", "val", OPTIONS)
    document = json.loads((tmp_path / "out/annotations/val.json").read_text())
    images = {entry["id"]: entry for entry in document["images"]}
    assert counts.tiles == len(images) == 6
    for annotation in document["annotations"]:
        tile = read_rgb(tmp_path / "out/val" / images[annotation["image_id"]]["file_name"])
        rows, columns = np.nonzero(tile[..., 0] == 255)
        x, y, w, h = annotation["bbox"]
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)
    shown = {annotation["image_id"] for annotation in document["annotations"]}
    for image_id in set(images) - shown:
        assert read_rgb(tmp_path / "out/val" / images[image_id]["file_name"]).max() == 0


def test_small_scene_is_padded_and_counts_are_exact(tmp_path):
    small = (np.full((200, 300, 3), 7, np.uint8), [box_object(10, 20, 60, 50, difficult=True)])
    src = make_set(tmp_path / "src", {"A": small, "B": (np.zeros((600, 600, 3), np.uint8), [])})
    counts = split_set(src, tmp_path / "out", "train", OPTIONS)
    assert (counts.scenes, counts.tiles, counts.empty_tiles, counts.scene_objects) == (2, 2, 1, 1)
    document = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert document["annotations"][0]["difficult"] == 1
    tile = read_rgb(tmp_path / "out/train/A__x0__y0.png")
    assert tile.shape == (600, 600, 3) and (tile[:200, :300] == 7).all() and (tile[200:] == 128).all()
    without = split_set(src, tmp_path / "out2", "train", SplitOptions(CLASSES_V1_5, keep_empty=False))
    assert (without.tiles, without.dropped_tiles) == (1, 1)


def test_workers_change_nothing(tmp_path):
    src = make_set(tmp_path / "src", random_scenes())
    split_set(src, tmp_path / "one", "train", OPTIONS, workers=1)
    split_set(src, tmp_path / "two", "train", OPTIONS, workers=2)
    files = sorted(
        path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()
    )
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_labels_of_all_versions(tmp_path):
    path = tmp_path / "P1.txt"
    path.write_text(
        "imagesource:GoogleEarth\ngsd:null\n"
        "10 20 30 20 30 40 10 40 ship 0\n"
        "10.5 20 30 25 28 40 8 36 plane 1\n\n"
        "5 6 50 60 harbor 0\n"
    )
    ship, plane, harbor = read_labels(path, CLASSES_V1_5)
    assert ship.box.tolist() == [10, 20, 30, 40] and not ship.difficult
    assert plane.box.tolist() == [8, 20, 30, 40] and plane.difficult
    assert harbor.box.tolist() == [5, 6, 50, 60]
    write_labels(tmp_path / "copy.txt", [ship, plane, harbor])
    again = read_labels(tmp_path / "copy.txt", CLASSES_V1_5)
    assert [entry.box.tolist() for entry in again] == [entry.box.tolist() for entry in (ship, plane, harbor)]


@pytest.mark.parametrize(
    "line,named",
    [
        ("1 2 3 4 5 6 7 ship 0", "expected 8 coordinates"),
        ("1 2 3 4 5 6 7 8 boat 0", "class 'boat'"),
        ("1 2 3 4 5 6 7 8 ship 7", "difficult is '7'"),
        ("1 2 3 4 5 6 7 nan ship 0", "not finite"),
        ("1 2 3 4 5 6 7 8", "expected 8 coordinates"),
    ],
)
def test_bad_label_lines_are_named(tmp_path, line, named):
    path = tmp_path / "P1.txt"
    path.write_text(f"gsd:0.2\n{line}\n")
    with pytest.raises(UserError) as caught:
        read_labels(path, CLASSES_V1_5)
    assert f"{path}:2" in str(caught.value) and named in str(caught.value)


def test_missing_pieces_are_named(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        split_set(tmp_path, tmp_path / "out", "train", OPTIONS)
    src = make_set(tmp_path / "src", random_scenes(1))
    (src / "labelTxt" / "P9.txt").write_text("")
    with pytest.raises(UserError, match=r"P9\.txt"):
        split_set(src, tmp_path / "out", "train", OPTIONS)
    (src / "labelTxt" / "P9.txt").unlink()
    split_set(src, tmp_path / "out", "train", OPTIONS)
    with pytest.raises(UserError, match="not empty"):
        split_set(src, tmp_path / "out", "train", OPTIONS)
    (src / "labelTxt" / "P0.txt").unlink()
    with pytest.raises(UserError, match=r"P0\.txt"):
        split_set(src, tmp_path / "out2", "train", OPTIONS)
    (src / "images" / "P0.png").write_text("no image")
    (src / "labelTxt" / "P0.txt").write_text("")
    with pytest.raises(UserError, match=r"P0\.png"):
        split_set(src, tmp_path / "out3", "train", OPTIONS)
