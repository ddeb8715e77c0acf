"""DOTA Task 2: tiles merged to scenes, the files, and their score by a second implementation."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.datasets.dota_labels import DotaObject, write_labels
from src.datasets.dota_split import SplitOptions, split_set
from src.detect.detections import DETECTION
from src.detect.postprocess import Detections
from src.evaluation.dota_submission import (
    find_places,
    merge_scenes,
    read_truth,
    score_scenes,
    write_submission,
)
from src.imaging.image_io import write_image
from src.yolo_dataset import DetectionSet, ImageRecord, load_detection_set
from tests.drawn_scene import draw, scatter

NAMES = ("plane", "ship", "large-vehicle")
SIZES = {"P0001": (900, 700), "P0002": (200, 150), "P0003": (620, 300)}


def write_scenes(root: Path, rng) -> dict:
    """Scenes with labels as DOTA has them, oriented boxes and difficult ones among them."""
    (root / "images").mkdir(parents=True)
    (root / "labelTxt").mkdir()
    objects = {}
    for scene, (width, height) in SIZES.items():
        boxes, classes = scatter(rng, width, height, 30, 120)
        classes = rng.integers(0, 3, len(boxes))
        write_image(root / "images" / f"{scene}.png", draw(width, height, boxes, classes % 2))
        objects[scene] = []
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), classes.tolist()):
            middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
            outline = [(x1, middle_y), (middle_x, y1), (x2, middle_y), (middle_x, y2)]
            objects[scene].append(
                DotaObject(np.array(outline, float), NAMES[label], bool(rng.random() < 0.2))
            )
        write_labels(root / "labelTxt" / f"{scene}.txt", objects[scene])
    return objects


def detections_of_tiles(dataset: DetectionSet, places, objects, rng) -> np.ndarray:
    """What a fair detector says of each tile: most objects' visible parts, shaken, and some noise."""
    rows = []
    for record in dataset.records:
        place = places[record.id]
        window = np.array([place.x, place.y, place.x + record.width, place.y + record.height])
        for entry in objects[place.scene]:
            box = entry.box + rng.normal(0, 1.5, 4)
            part = np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])
            if (part[2:] - part[:2] > 4).all() and rng.random() < 0.8:
                label = NAMES.index(entry.name) if rng.random() < 0.9 else int(rng.integers(3))
                rows.append((record.id, part - np.tile(window[:2], 2), rng.uniform(0.2, 1), label + 1))
        for _ in range(4):
            corner = rng.uniform(0, 200, 2)
            noise = np.concatenate([corner, corner + rng.uniform(10, 80, 2)])
            rows.append((record.id, noise, rng.uniform(0.05, 0.6), int(rng.integers(3)) + 1))
    table = np.empty(len(rows), DETECTION)
    for number, (image_id, (x1, y1, x2, y2), score, category) in enumerate(rows):
        table[number] = (image_id, (x1, y1, x2 - x1, y2 - y1), score, category)
    return rng.permutation(table)


@pytest.fixture(scope="module")
def dota(tmp_path_factory):
    """(root, objects, dataset of tiles) of a split set."""
    root = tmp_path_factory.mktemp("dota")
    objects = write_scenes(root / "scenes", np.random.default_rng(0))
    split_set(root / "scenes", root / "tiles", "val", SplitOptions(NAMES, tile_size=300))
    tiles = root / "tiles"
    dataset = load_detection_set(tiles / "val", tiles / "annotations/val.json", NAMES, keep_empty=True)
    return root, objects, dataset


def overlap_with_whole_pixels(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def score_files(archive: Path, label_dir: Path, scenes, name: str) -> float:
    """AP of a class from the zip's text and the label files' text: VOC's rule, line by line."""
    truth = {scene: [] for scene in scenes}
    for scene in scenes:
        for line in (label_dir / f"{scene}.txt").read_text().splitlines()[2:]:
            *numbers, kind, difficult = line.split()
            if kind == name:
                xs, ys = [float(v) for v in numbers[0::2]], [float(v) for v in numbers[1::2]]
                truth[scene].append([(min(xs), min(ys), max(xs), max(ys)), difficult == "1", False])
    with zipfile.ZipFile(archive) as opened:
        lines = opened.read(f"Task2_{name}.txt").decode().splitlines()
    rows = [
        (float(words[1]), words[0], [float(word) for word in words[2:]]) for words in map(str.split, lines)
    ]
    count = sum(not difficult for scene in truth.values() for _, difficult, _ in scene)
    if not count:
        return math.nan
    right = wrong = 0
    recall, precision = [0.0], [1.0]
    for _, scene, box in sorted(rows, key=lambda row: -row[0]):
        overlaps = [overlap_with_whole_pixels(box, entry[0]) for entry in truth[scene]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] <= 0.5:
            wrong += 1
        elif truth[scene][best][1]:
            continue
        elif truth[scene][best][2]:
            wrong += 1
        else:
            truth[scene][best][2] = True
            right += 1
        recall.append(right / count)
        precision.append(right / (right + wrong))
    area = 0.0
    for k in range(1, len(recall)):
        area += (recall[k] - recall[k - 1]) * max(precision[k:])
    return area


@pytest.mark.parametrize("seed", range(4))
def test_score_equals_a_second_implementation_that_reads_the_files(dota, tmp_path, seed):
    root, objects, dataset = dota
    rng = np.random.default_rng(seed)
    places, _ = find_places(dataset)
    table = detections_of_tiles(dataset, places, objects, rng)
    scenes = merge_scenes(table, dataset)
    archive = write_submission(scenes, NAMES, tmp_path / "Task2.zip")
    labels = root / "scenes/labelTxt"
    result = score_scenes(read_back(archive), labels, NAMES)
    expected = [score_files(archive, labels, SIZES, name) for name in NAMES]
    assert [entry.ap for entry in result.classes] == pytest.approx(expected, abs=1e-6)
    assert result.mean_ap == pytest.approx(np.mean(expected), abs=1e-6) and 0.2 < result.mean_ap < 0.95
    # Rounding in the files moves nothing much.
    assert score_scenes(scenes, labels, NAMES).mean_ap == pytest.approx(result.mean_ap, abs=0.02)


def test_perfect_tiles_score_one(dota):
    """The tiles' visible parts, cut ones with the best scores: only a right merge gives AP 1."""
    root, objects, dataset = dota
    places, sizes = find_places(dataset)
    assert sizes == SIZES
    rows = []
    for record in dataset.records:
        place = places[record.id]
        for entry in objects[place.scene]:
            box = entry.box - (place.x, place.y, place.x, place.y)
            part = np.clip(box, 0, 300)
            if (part[2:] - part[:2] > 0).all():
                score = 0.9 if (part != box).any() else 0.6
                size = part[2:] - part[:2]
                rows.append((record.id, (*part[:2], *size), score, NAMES.index(entry.name) + 1))
    scenes = merge_scenes(np.array(rows, DETECTION), dataset)
    result = score_scenes(scenes, root / "scenes/labelTxt", NAMES)
    assert result.mean_ap == pytest.approx(1.0)
    assert len(rows) > sum(len(found) for found in scenes.values()) == sum(map(len, objects.values()))


def record(number, name, width=100, height=100):
    none = np.zeros((0, 4), np.float32)
    return ImageRecord(number, Path(name), width, height, none, np.zeros(0, np.int32), none)


def test_merge_of_a_hand_made_scene_by_file_names(tmp_path):
    """Two tiles of scene A with 20 columns in common, an object on the seam; and an image that is no tile."""
    records = [record(3, "A__x0__y0.png"), record(4, "A__x80__y0.png"), record(9, "B.png", 50, 60)]
    dataset = DetectionSet(records, NAMES, (1, 5, 7), tmp_path)
    table = np.array(
        [
            (4, (5, 10, 35, 20), 0.5, 5),  # 85 10 120 30, whole
            (3, (85, 10, 15, 20), 0.9, 5),  # its left part
            (3, (0, 50, 10, 10), 0.8, 7),
            (9, (5, 5, 20, 20), 0.7, 1),
        ],
        DETECTION,
    )
    scenes = merge_scenes(table, dataset)
    assert {scene: found.boxes.tolist() for scene, found in scenes.items()} == {
        "A": [[0, 50, 10, 60], [85, 10, 120, 30]],
        "B": [[5, 5, 25, 25]],
    }
    archive = write_submission(scenes, NAMES, tmp_path / "out/Task2.zip")
    with zipfile.ZipFile(archive) as opened:
        texts = {name: opened.read(name).decode() for name in opened.namelist()}
    assert texts == {
        "Task2_plane.txt": "B 0.7 5.00 5.00 25.00 25.00\n",
        "Task2_ship.txt": "A 0.5 85.00 10.00 120.00 30.00\n",
        "Task2_large-vehicle.txt": "A 0.8 0.00 50.00 10.00 60.00\n",
    }
    again = write_submission(dict(reversed(scenes.items())), NAMES, tmp_path / "again.zip")
    assert again.read_bytes() == archive.read_bytes()
    assert sorted(path.name for path in archive.parent.iterdir()) == ["Task2.zip"]


def test_detections_in_the_padding_of_a_small_scene_are_dropped(dota):
    _, _, dataset = dota
    places, _ = find_places(dataset)
    number = next(image_id for image_id, place in places.items() if place.scene == "P0002")
    rows = [(number, (210, 20, 40, 40), 0.9, 1), (number, (180, 100, 60, 100), 0.8, 1)]
    found = merge_scenes(np.array(rows, DETECTION), dataset)["P0002"]
    assert found.boxes.tolist() == [[180, 100, 200, 150]]


def test_scenes_without_detections_are_there_and_count(dota):
    root, _, dataset = dota
    scenes = merge_scenes(np.empty(0, DETECTION), dataset)
    assert set(scenes) == set(SIZES) and not any(len(found) for found in scenes.values())
    result = score_scenes(scenes, root / "scenes/labelTxt", NAMES)
    assert result.mean_ap == 0 and all(entry.objects for entry in result.classes)


def read_back(archive):
    """Detections of each scene, from the text of a submission's files."""
    rows = {}
    with zipfile.ZipFile(archive) as files:
        for label, name in enumerate(NAMES):
            for line in files.read(f"Task2_{name}.txt").decode().splitlines():
                scene, *numbers = line.split()
                rows.setdefault(scene, []).append([*map(float, numbers), label])
    tables = {scene: np.array(sorted(table, key=lambda row: -row[0])) for scene, table in rows.items()}
    return {
        scene: Detections(np.float32(table[:, 1:5]), np.float32(table[:, 0]), np.int32(table[:, 5]))
        for scene, table in tables.items()
    }


def test_a_submission_is_read_back(tmp_path):
    boxes = np.array([[1.234, 2, 30, 40], [5, 6, 70.5, 80]], np.float32)
    found = {"S": Detections(boxes, np.array([0.875, 1e-3], np.float32), np.array([2, 0], np.int32))}
    back = read_back(write_submission(found, NAMES, tmp_path / "a.zip"))
    np.testing.assert_allclose(back["S"].boxes, boxes, atol=0.005)
    assert back["S"].scores.tolist() == found["S"].scores.tolist()
    assert back["S"].classes.tolist() == [2, 0]


def message(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bad_input_is_named(dota, tmp_path):
    _, _, dataset = dota
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert "scene 'a b'" in message(write_submission, {"a b": none}, NAMES, tmp_path / "a.zip")
    assert not list(tmp_path.iterdir())
    assert "P9.txt: no such label file" in message(read_truth, tmp_path, ["P9"], NAMES)
    document = json.loads(dataset.ann_file.read_text())
    document["images"][0]["offset"] = [5000, 0]
    ann_file = tmp_path / "ann.json"
    ann_file.write_text(json.dumps(document))
    moved = DetectionSet(dataset.records, NAMES, dataset.category_ids, ann_file)
    assert "outside of its scene_size" in message(find_places, moved)
