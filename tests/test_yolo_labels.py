"""A set in MindYOLO's layout is trained on as it lies: lists or folders of images with YOLO's text labels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.commands.convert_to_coco import main as convert_to_coco
from src.config import load_config
from src.imaging.image_io import write_image
from src.runtime.device import Runtime
from src.train.train_setup import create_train_loader
from src.yolo_dataset import resolve_set

WORDS = ["--labels=ship,plane,bridge", "--per_batch_size=1", "--training_shape=64"]


@pytest.fixture
def coco(tmp_path) -> Path:
    """Three images of 100x80: boxes, outlines with a line written twice, and none; a validation set in JSON."""
    root = tmp_path / "coco"
    for name, shade in (("train2017/12", 10), ("train2017/7", 20), ("train2017/30", 30), ("val2017/1", 40)):
        path = root / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.full((80, 100, 3), shade, np.uint8))
    labels = root / "labels" / "train2017"
    labels.mkdir(parents=True)
    (labels / "12.txt").write_text("1 0.5 0.5 0.2 0.5\n2 0.1 0.25 0.1 0.25\n")
    (labels / "7.txt").write_text("0 0.1 0.25 0.6 0.25 0.3 0.75\n" * 2)
    (root / "train2017.txt").write_text(
        "./images/train2017/12.jpg\n./images/train2017/7.jpg\n./images/train2017/30.jpg\n"
    )
    document = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 100, "height": 80}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}],
        "categories": [{"id": 1, "name": "ship"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return root


def train_set(root: Path, *words: str):
    return create_train_loader(load_config([*WORDS, f"--data_dir={root}", *words]), Runtime()).dataset


def check(records) -> None:
    assert [(record.id, record.path.name) for record in records][:3] == [
        (7, "7.jpg"),
        (12, "12.jpg"),
        (30, "30.jpg"),
    ]
    seven, twelve, thirty = records
    np.testing.assert_allclose(seven.boxes, [[10, 20, 60, 60]], atol=1e-4)
    np.testing.assert_allclose(twelve.boxes, [[40, 20, 60, 60], [5, 10, 15, 30]], atol=1e-4)
    assert seven.classes.tolist() == [0] and twelve.classes.tolist() == [1, 2] and len(thirty.boxes) == 0


def test_the_list_and_its_labels(coco):
    check(train_set(coco, "--keep_empty=1").records)
    assert resolve_set(coco, "val") == (
        coco / "images" / "val2017",
        coco / "annotations" / "instances_val2017.json",
    )


def test_the_list_by_name(coco):
    check(train_set(coco, "--keep_empty=1", f"--ann_file={coco / 'train2017.txt'}").records)
    (coco / "part.txt").write_text("./images/train2017/12.jpg\n")
    assert [record.id for record in train_set(coco, f"--ann_file={coco / 'part.txt'}").records] == [12]


def test_folders_without_a_list(coco):
    (coco / "train2017.txt").unlink()
    check(train_set(coco, "--keep_empty=1").records)


def test_an_annotation_file_goes_first(coco):
    shutil.copy(
        coco / "annotations" / "instances_val2017.json", coco / "annotations" / "instances_train2017.json"
    )
    (coco / "images" / "train2017" / "12.jpg").rename(coco / "images" / "train2017" / "1.jpg")
    (record,) = train_set(coco).records
    assert record.boxes.tolist() == [[1, 2, 31, 42]]


def test_mistakes_are_named(coco):
    labels = coco / "labels" / "train2017" / "12.txt"
    labels.write_text("1 0.5 0.5 0.2 0.5\n3 0.5 0.5 0.2 0.5\n")
    with pytest.raises(UserError, match=r"12\.txt:2: class 3 is not one of the 3 classes"):
        train_set(coco)
    (coco / "train2017.txt").write_text("./images/train2017/30.jpg\n")
    with pytest.raises(UserError, match=r"none of its 1 images has a label file, expected .*30\.txt"):
        train_set(coco)
    (coco / "train2017.txt").write_text("../away.jpg\n")
    with pytest.raises(UserError, match=r"away\.jpg"):
        train_set(coco)
    (coco / "train2017.txt").write_text("\n")
    with pytest.raises(UserError, match=r"train2017\.txt: names no images"):
        train_set(coco)


def test_converter_reads_the_names_of_mindyolos_yaml(coco, tmp_path, capsys):
    names = tmp_path / "coco.yaml"
    names.write_text("data:\n  nc: 3\n  names: [ship, plane, bridge]\n")
    words = [
        "--format=yolo",
        f"--src={coco}",
        f"--out={tmp_path / 'out'}",
        f"--names={names}",
        "--val_share=0.4",
    ]
    assert convert_to_coco(words) == 0
    document = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["ship", "plane", "bridge"]
    names.write_text("data:\n  nc: 3\n")
    assert convert_to_coco([*words[:2], f"--out={tmp_path / 'other'}", *words[3:]]) == 2
    assert "has neither `names` nor `data.names`" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
