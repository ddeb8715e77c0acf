"""Hostile annotations: names that leave a folder, numbers that are none, lines that flood a terminal."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.datasets.dota_labels import read_labels
from src.datasets.formats.labelled import ReadOptions
from src.datasets.formats.yolo_txt import class_names, read_yolo
from src.evaluation.dota_submission import find_places
from src.yolo_dataset import load_detection_set


def write_set(folder, **changes):
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8]}],
        "categories": [{"id": 1, "name": "ship"}],
        **changes,
    }
    (folder / "1.png").touch()
    (folder / "a.json").write_text(json.dumps(document))
    return folder, folder / "a.json"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b.png", "..", "", "a\x00.png", ["1.png"], None]
)
def test_a_file_name_cannot_leave_the_folder_of_images(tmp_path, name):
    folder, ann_file = write_set(tmp_path, images=[{"id": 1, "file_name": name, "width": 60, "height": 40}])
    with pytest.raises(UserError) as caught:
        load_detection_set(folder, ann_file, ("ship",))
    assert len(str(caught.value).splitlines()) == 1


ODD = st.sampled_from([0, -1, 5, 2**40, 1e308, float("nan"), float("inf"), 0.5, "0", None, True, [1], {}, ""])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scene=st.sampled_from(["P1", 7, None, ""]),
    offset=st.lists(ODD, max_size=3) | ODD,
    size=st.lists(ODD, max_size=3),
)
def test_places_of_tiles_are_whole_or_refused(tmp_path, scene, offset, size):
    entry = {"id": 1, "file_name": "1.png", "width": 60, "height": 40}
    folder, ann_file = write_set(
        tmp_path, images=[{**entry, "scene": scene, "offset": offset, "scene_size": size}]
    )
    dataset = load_detection_set(folder, ann_file, ("ship",))
    try:
        places, sizes = find_places(dataset)
    except UserError as error:
        assert "scene_size" in str(error)
    else:
        (place,) = places.values()
        assert 0 <= place.x < sizes[place.scene][0] and type(place.y) is int


def test_places_of_tiles_in_a_file_with_a_byte_order_mark(tmp_path):
    folder, ann_file = write_set(tmp_path)
    ann_file.write_bytes(b"\xef\xbb\xbf" + ann_file.read_bytes())
    assert find_places(load_detection_set(folder, ann_file, ("ship",)))[1] == {"1": (60, 40)}


@pytest.mark.parametrize(
    "line",
    [
        "1e308 0 -1e308 0 0 9 9 9 ship 0",
        "nan 0 1 1 2 2 3 3 ship 0",
        "1 2 3 4 ship\x1b[2J 0",
        "1 2 3 4 " + "[" * 3000,
    ],
)
def test_dota_lines_that_overflow_or_flood_the_terminal(tmp_path, line):
    (tmp_path / "P1.txt").write_text(line)
    with pytest.raises(UserError, match=r"P1\.txt:1") as caught:
        read_labels(tmp_path / "P1.txt", ("ship",))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1300


def test_names_in_a_data_yaml_that_no_file_can_have(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(f"train: {'a' * 5000}\nval: images\nnames: [ship]\n")
    with pytest.raises(UserError, match="correct the path"):
        read_yolo(tmp_path, ReadOptions())


def test_class_names_of_several_lines_become_one(tmp_path):
    document = {"names": ["ship\n--evil", "plane"]}
    assert class_names(tmp_path, ReadOptions(), document, tmp_path / "data.yaml") == ("ship --evil", "plane")
