"""The test set where no annotation file describes it: which images, and which ids."""

import cv2
import numpy as np
import pytest

from src.base.coco_classes import COCO_CLASSES, category_ids
from src.base.errors import UserError
from src.config import load_config
from src.evaluation.held_out import load_test_set
from tests import ROOT

NUMBERS = (7, 12, 581_929)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "test2017").mkdir()
    for number in NUMBERS:
        cv2.imwrite(str(tmp_path / "test2017" / f"{number:012d}.jpg"), np.zeros((20, 30, 3), np.uint8))
    return tmp_path


def loaded(root, *words):
    dataset, has_ids = load_test_set(load_config([f"--data_dir={root}", *words]))
    assert not has_ids
    return dataset


def test_every_image_of_the_folder(root):
    assert [record.id for record in loaded(root).records] == list(NUMBERS)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_those_of_the_list_beside_the_folder(root, end):
    """Paths of another machine: the name alone counts."""
    lines = ["coco/images/test2017/000000581929.jpg", "", "C:\\coco\\000000000007.jpg"]
    (root / "testdev2017.txt").write_bytes(end.join(lines).encode())
    assert [record.id for record in loaded(root).records] == [7, 581_929]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "000000000007.jpg\na.jpg\nb.jpg\n",
            r"testdev2017.txt: 2 of its 3 images are not in .*test2017, first a.jpg",
        ),
        ("\n", "testdev2017.txt: names no image; remove it"),
        ("\udcff", "testdev2017.txt: cannot be read as text"),
    ],
)
def test_a_list_that_cannot_be_used(root, text, message):
    (root / "testdev2017.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message) as caught:
        loaded(root)
    assert "\n" not in str(caught.value)


def test_coco_s_classes_have_coco_s_ids(root):
    """1 to 90 with ten gaps, as in its annotation files; in another order by name."""
    dataset = loaded(root, f"--labels={','.join(COCO_CLASSES)}")
    assert len(COCO_CLASSES) == 80
    ids = dict(zip(dataset.class_names, dataset.category_ids))
    known = {
        "person": 1, "stop sign": 13, "umbrella": 28, "handbag": 31, "bottle": 44, "wine glass": 46, "bed": 65,
        "dining table": 67, "toilet": 70, "tv": 72, "sink": 81, "refrigerator": 82, "book": 84, "toothbrush": 90,
    }  # fmt: skip
    assert {name: ids[name] for name in known} == known
    assert list(ids.values()) == sorted(set(ids.values()))
    assert category_ids(COCO_CLASSES[::-1]) == dataset.category_ids[::-1]


@pytest.mark.parametrize("name", ["yolov4", "yolov4-silu"])
def test_the_names_are_those_of_the_coco_configuration(name):
    assert tuple(load_config([f"--config={ROOT / 'configs' / 'yolov4' / name}.yaml"]).labels) == COCO_CLASSES


def test_other_classes_count_from_one(root):
    assert loaded(root).category_ids == tuple(range(1, 17))
    assert category_ids(COCO_CLASSES[:79]) == tuple(range(1, 80))
