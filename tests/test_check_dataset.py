"""utils/check_dataset.py on sets with known faults: each named, counted, and nothing else."""

import copy
import json
import shutil

import cv2
import numpy as np
import pytest

from src.base.errors import UserError
from src.commands.check_dataset import main
from src.datasets.check import check_set
from src.datasets.findings import KINDS, Findings
from src.yolo_dataset import load_detection_set
from tests.tiny import NAMES


def edit(root, split, change):
    """Apply a function to an annotation file's document."""
    path = root / "annotations" / f"{split}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def check(root, *words):
    """(exit code, counts by kind, document)."""
    out = root / "report.json"
    words = [f"--data_dir={root}", f"--labels={','.join(NAMES)}", "--input", "96", "--json", str(out), *words]
    code = main(words)
    document = json.loads(out.read_text())
    return code, {entry["kind"]: entry["count"] for entry in document["problems"]}, document


@pytest.mark.parametrize("words", [[], ["--decode"]])
def test_a_good_set_is_clean_and_counted(own_tiles, words, capsys):
    code, counts, document = check(own_tiles, *words)
    assert (code, counts) == (0, {})
    assert "no problems found" in capsys.readouterr().out
    train = document["sets"]["train"]
    assert (train["pictures"], train["objects"]) == (6, 18)
    assert train["objects_by_class"] == {"ship": 12, "plane": 6}
    assert train["objects_a_picture"] == {
        **dict.fromkeys(("min", "5%", "25%", "50%", "75%", "95%", "max", "mean"), 3.0)
    }
    # 36x26 of 150x120 in 96x96
    side = (36 * 96 / 150 * 26 * 96 / 120) ** 0.5
    assert train["object_side_in_input"]["mean"] == pytest.approx(side, rel=1e-5)
    assert train["anchor_recall"] == 1.0


def test_every_fault_of_the_annotations_is_counted(own_tiles):
    def spoil(document):
        images, annotations = document["images"], document["annotations"]
        base = annotations[0]

        def add(**values):
            annotations.append({**copy.deepcopy(base), "id": 1000 + len(annotations), **values})

        add(bbox=[float("nan"), 0, 5, 5])
        add(bbox=[0, 0, float("inf"), 5])
        add(bbox=[10, 10, -4, 5])
        add(bbox=[10, 10, 0, 5])
        add(bbox=[500, 10, 5, 5])
        add(bbox=[140, 100, 40, 10])  # 30 too far
        add(bbox=[100, 100, 1.5, 40])  # 0.96 wide in the input; and 20 too far down
        add(bbox=list(base["bbox"]))
        add(bbox="everywhere")
        add(iscrowd="no", bbox=[1, 1, 9, 9])
        add(image_id=77)
        add(image_id=[1])
        add(category_id=9)
        add(id=1, bbox=[3, 3, 20, 22])
        images.append({"id": 1, "file_name": "other.png", "width": 3, "height": 3})
        images.append({"id": 50, "file_name": "../out.png", "width": 3, "height": 3})
        images.append({"id": 51, "file_name": "x.png", "width": -3, "height": 3})
        images.append({"id": 52, "file_name": "1.png", "width": 150, "height": 120})
        images.append({"id": 53, "file_name": "none.png", "width": 150, "height": 120})
        document["categories"] += [{"id": 3, "name": "tank"}, {"id": 3, "name": "car"}, {"id": 4}]

    edit(own_tiles, "train", spoil)
    code, counts, document = check(own_tiles)
    assert code == 1
    assert counts == {
        "image_entry": 2,
        "duplicate_image_id": 1,
        "duplicate_file_name": 1,
        "category_entry": 2,
        "unknown_label": 1,
        "annotation_entry": 2,
        "duplicate_annotation_id": 1,
        "unknown_image": 2,
        "unknown_category": 1,
        "box_not_finite": 2,
        "box_without_area": 2,
        "box_outside": 1,
        "box_cut": 2,
        "box_twice": 1,
        "box_tiny": 1,
        "missing_file": 1,
    }
    stopping = {entry["kind"] for entry in document["problems"] if entry["stops_training"]}
    assert stopping == {kind for kind in counts if KINDS[kind].stops}


def test_what_is_said_to_stop_training_does(own_tiles):
    """Each of those faults alone, given to the reader that training uses."""
    changes = {
        "image_entry": lambda d: d["images"][0].update(width=0),
        "duplicate_image_id": lambda d: d["images"].append(d["images"][0]),
        "category_entry": lambda d: d["categories"].append({"id": 1, "name": "again"}),
        "unknown_label": lambda d: d["categories"].append({"id": 3, "name": "tank"}),
        "annotation_entry": lambda d: d["annotations"][0].update(bbox=[1, 2]),
        "unknown_image": lambda d: d["annotations"][0].update(image_id=99),
        "unknown_category": lambda d: d["annotations"][0].update(category_id=99),
        "missing_file": lambda d: d["images"][0].update(file_name="none.png"),
        # these three are left out or ignored by it
        "box_without_area": lambda d: d["annotations"][0].update(bbox=[1, 2, 0, 3]),
        "duplicate_annotation_id": lambda d: d["annotations"][0].update(id=2),
        "box_cut": lambda d: d["annotations"][0].update(bbox=[100, 100, 90, 90]),
    }
    file = own_tiles / "annotations" / "train.json"
    good = file.read_text()
    for kind, change in changes.items():
        file.write_text(good)
        edit(own_tiles, "train", change)
        _, counts, _ = check(own_tiles)
        assert kind in counts
        stopped = False
        try:
            load_detection_set(own_tiles / "train", file, NAMES)
        except UserError:
            stopped = True
        assert stopped == KINDS[kind].stops, kind


def test_images_that_are_bad_missing_extra_or_repeated(own_tiles):
    train, val = own_tiles / "train", own_tiles / "val"
    shutil.copy(train / "2.png", train / "1.png")
    shutil.copy(train / "3.png", val / "1.png")
    (train / "4.png").write_bytes((train / "4.png").read_bytes()[:-2000])
    (train / "5.png").write_text("no image")
    cv2.imwrite(str(train / "6.png"), np.zeros((120, 151, 3), np.uint8))
    cv2.imwrite(str(train / "extra.JPG"), np.zeros((12, 15, 3), np.uint8))
    (val / "2.png").unlink()
    # the same pixels in another file
    cv2.imwrite(str(val / "3.png"), cv2.imread(str(train / "3.png")), [cv2.IMWRITE_PNG_COMPRESSION, 0])
    found = {"duplicate_picture": 1, "train_in_val": 1, "unreadable_picture": 1, "size_differs": 1}
    found |= {"unlisted_file": 1, "missing_file": 1}
    _, counts, document = check(own_tiles)
    assert counts == found
    examples = {entry["kind"]: entry["examples"] for entry in document["problems"]}
    assert examples["train_in_val"] == [f"{val / '1.png'} is {train / '3.png'}"]
    assert examples["size_differs"] == [f"{train / '6.png'}: it is 151x120, annotated 150x120"]
    _, counts, document = check(own_tiles, "--decode")
    # the cut one cannot be decoded; the third's pixels are twice in val and once in train
    assert counts == {**found, "unreadable_picture": 2, "train_in_val": 2, "duplicate_picture": 2}


def test_evaluation_on_the_training_set_is_named(own_tiles):
    words = [f"--ann_val_file={own_tiles / 'annotations' / 'train.json'}"]
    shutil.rmtree(own_tiles / "val")
    (own_tiles / "val").symlink_to(own_tiles / "train")
    _, counts, _ = check(own_tiles, *words)
    assert counts["train_in_val"] == 6


def test_classes_crowding_and_anchors(own_tiles):
    def only_long_ships(document):
        for annotation in document["annotations"]:
            annotation.update(category_id=1, bbox=[0, annotation["id"], 150, 4])

    edit(own_tiles, "val", only_long_ships)
    code, counts, document = check(own_tiles, "--max_box=2")
    assert code == 1
    assert counts == {"class_without_objects": 1, "crowded_picture": 9, "anchors_misfit": 1}
    assert document["sets"]["val"]["anchor_recall"] == 0.0  # 96 x 3.2 pixels
    (example,) = next(e["examples"] for e in document["problems"] if e["kind"] == "class_without_objects")
    assert example == "val: plane"


def test_examples_are_bounded_and_counts_are_not(own_tiles):
    def spoil(document):
        document["annotations"] += [
            {"id": 100 + k, "image_id": 1, "category_id": 1, "bbox": [k, 3, -1, 9]} for k in range(500)
        ]

    edit(own_tiles, "train", spoil)
    _, counts, document = check(own_tiles, "--examples", "3")
    assert counts == {"box_without_area": 500}
    assert len(document["problems"][0]["examples"]) == 3


def test_what_is_not_usable_is_one_line(own_tiles, capsys):
    assert main([f"--data_dir={own_tiles / 'none'}"]) == 2
    assert main([f"--data_dir={own_tiles}", "--split", "test"]) == 2
    (own_tiles / "annotations" / "val.json").write_text("{")
    assert main([f"--data_dir={own_tiles}", "--labels=ship,plane"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: ") for line in errors)
    assert "val.json: no valid JSON" in errors[2]


@pytest.mark.parametrize("crowd_targets", [False, True])
def test_checked_boxes_are_those_of_training(own_tiles, crowd_targets):
    def spoil(document):
        document["annotations"] += [
            {"id": 90, "image_id": 2, "category_id": 2, "bbox": [140, 100, 40, 40]},
            {"id": 91, "image_id": 2, "category_id": 2, "bbox": [1, 2, 30, 40], "iscrowd": 1},
            {"id": 92, "image_id": 3, "category_id": 2, "bbox": [1, 2, 30, 0]},
        ]

    edit(own_tiles, "train", spoil)
    file = own_tiles / "annotations" / "train.json"
    records = load_detection_set(own_tiles / "train", file, NAMES, crowd_targets=crowd_targets).records
    images = check_set("train", own_tiles / "train", file, NAMES, Findings(), crowd_targets).images
    assert sum(image.ignored for image in images) == (0 if crowd_targets else 1)
    assert [image.path for image in images] == [record.path for record in records]
    for image, record in zip(images, records):
        assert np.array_equal(np.array(image.boxes, np.float32)[:, :4], record.boxes)
        assert [label for *_, label in image.boxes] == record.classes.tolist()
        assert image.ignored == len(record.ignored)
