"""Annotation files: what is kept, what is left out and counted, and what is refused by name."""

import copy
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.imaging.image_io import read_rgb
from src.yolo_dataset import load_detection_set, resolve_set

NAMES = ("ship", "plane")
BASE = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 100, "height": 80},
        {"id": 9, "file_name": "deep/b.jpg", "width": 60, "height": 50},
    ],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10, 20, 30, 40]},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 5, 5]},
    ],
    "categories": [{"id": 7, "name": "plane"}, {"id": 3, "name": "ship"}],
}


def write(tmp_path, **changes):
    document = {**copy.deepcopy(BASE), **changes}
    (tmp_path / "deep").mkdir(exist_ok=True)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((80, 100, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "deep" / "b.jpg"), np.zeros((50, 60, 3), np.uint8))
    (tmp_path / "t.json").write_text(json.dumps(document))
    return tmp_path, tmp_path / "t.json"


def annotation(**values):
    return {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10, 20, 30, 40], **values}


def test_boxes_classes_and_category_ids(tmp_path):
    dataset = load_detection_set(*write(tmp_path), NAMES)
    assert dataset.category_ids == (3, 7)
    first, second = dataset.records
    assert (first.id, first.path, second.id) == (5, tmp_path / "a.png", 9)
    assert first.boxes.tolist() == [[10, 20, 40, 60], [0, 0, 5, 5]]
    assert first.classes.tolist() == [1, 0]
    assert second.boxes.shape == (0, 4)
    assert dataset.describe() == f"{tmp_path / 't.json'}: 2 images, 2 objects"


def test_images_without_objects_by_option(tmp_path):
    kept = load_detection_set(*write(tmp_path), NAMES, keep_empty=False)
    assert [record.id for record in kept.records] == [5]
    assert kept.dropped == {"images without objects": 1}


def test_published_choice_of_images(tmp_path, fixtures):
    """Left out: images without a box that is wider and higher than a pixel; crowd boxes count as targets."""
    golden = np.load(fixtures / "dataset_and_mosaic.npz")
    document = json.loads(str(golden["annotations"]))
    ids = {category["name"]: category["id"] for category in document["categories"]}
    for image in document["images"]:
        (tmp_path / image["file_name"]).touch()
    (tmp_path / "t.json").write_text(json.dumps(document))

    def kept(**options):
        return load_detection_set(tmp_path, tmp_path / "t.json", ("ship", "plane", "bridge"), **options)

    published = kept(keep_empty=False, crowd_targets=True)
    assert [record.id for record in published.records] == golden["kept_image_ids"].tolist()
    assert published.dropped == {"images without objects": 2}
    assert [ids[name] for name in published.class_names] == golden["category_order"].tolist()
    assert published.category_ids == tuple(golden["category_order"].tolist())
    objects = sum(entry["image_id"] in golden["kept_image_ids"] for entry in document["annotations"])
    assert sum(len(record.boxes) for record in published.records) == objects
    crowds = {entry["image_id"] for entry in document["annotations"] if entry["iscrowd"]}
    without = kept(keep_empty=False)  # an image of crowds alone has nothing to learn from then
    assert {record.id for record in published.records} - {record.id for record in without.records} == {23}
    assert 23 in crowds and sum(len(record.ignored) for record in without.records) == 2
    assert len(kept().records) == len(document["images"])


def test_odd_boxes_are_dropped_and_counted_or_refused(tmp_path):
    odd = {
        "not finite": [float("nan"), 0, 5, 5],
        "without area": [10, 10, 0, 5],
        "outside its image": [200, 10, 5, 5],
    }
    annotations = [annotation(id=k, bbox=box) for k, box in enumerate(odd.values())]
    annotations += [annotation(id=7, bbox=[90, 70, 50, 50]), annotation(id=8, bbox=[-5, 3, 10, -2])]
    paths = write(tmp_path, annotations=annotations)
    dataset = load_detection_set(*paths, NAMES)
    assert dataset.dropped == {
        "boxes: not finite": 1,
        "boxes: without area": 2,
        "boxes: outside its image": 1,
    }
    assert dataset.records[0].boxes.tolist() == [[90, 70, 100, 80]]  # clipped
    for number, (reason, box) in enumerate(odd.items()):
        paths = write(tmp_path, annotations=[annotation(id=number, bbox=box)])
        with pytest.raises(UserError, match=f"annotation {number}: box .* {reason}"):
            load_detection_set(*paths, NAMES, invalid_boxes="error")


def test_annotations_that_cannot_be_used_are_refused_or_dropped_and_counted(tmp_path):
    odd = [annotation(id=1, category_id=99), annotation(id=2, image_id=77), annotation(id=3, bbox=[1, 2]),
           annotation(id=4, iscrowd="x"), annotation(id=5, image_id=[5])]  # fmt: skip
    good = annotation(id=9)
    images = [*BASE["images"], {**BASE["images"][0], "width": 3}]
    paths = write(tmp_path, annotations=[*odd, good], images=images)
    with pytest.raises(UserError, match="duplicate"):
        load_detection_set(*paths, NAMES)
    dataset = load_detection_set(*paths, NAMES, bad_annotations="drop")
    assert sum(len(record.boxes) for record in dataset.records) == 1
    assert dataset.records[0].width == BASE["images"][0]["width"]  # the first entry counts
    assert dataset.dropped == {
        "annotations that cannot be used": 5,
        "image entries of a duplicate id": 1,
    }
    for entry in odd:
        with pytest.raises(UserError, match="annotation"):
            load_detection_set(*write(tmp_path, annotations=[entry]), NAMES)


@pytest.mark.parametrize("annotated", [(50, 40), (200, 160)])
def test_a_image_of_another_size_than_annotated_is_refused_or_taken_as_it_is(tmp_path, annotated):
    """The image is 100 x 80; its boxes keep their pixels and are clipped to what the image has."""
    width, height = annotated
    entry = {**BASE["images"][0], "width": width, "height": height}
    boxes = [annotation(id=1, bbox=[30, 20, 15, 10]), annotation(id=2, bbox=[90, 70, 20, 30])]
    image_dir, ann_file = write(tmp_path, images=[entry], annotations=boxes)
    refused = load_detection_set(image_dir, ann_file, NAMES).records[0]
    with pytest.raises(UserError, match=r"100x80, its annotation says .*wrong_sizes=repair"):
        read_rgb(refused.path, (refused.width, refused.height))
    dataset = load_detection_set(image_dir, ann_file, NAMES, wrong_sizes="repair")
    record = dataset.records[0]
    assert (record.width, record.height) == (100, 80) and dataset.resized == 1
    assert record.boxes.tolist() == [[30, 20, 45, 30], [90, 70, 100, 80]]
    assert "1 images of another size than annotated" in dataset.describe()
    assert read_rgb(record.path, (record.width, record.height)).shape == (80, 100, 3)


def test_a_turned_image_is_not_repaired(tmp_path):
    """Its boxes would lie on other objects, without any error."""
    entry = {**BASE["images"][0], "width": 80, "height": 100}
    image_dir, ann_file = write(tmp_path, images=[entry], annotations=[annotation(id=1)])
    with pytest.raises(UserError, match="turned image"):
        load_detection_set(image_dir, ann_file, NAMES, wrong_sizes="repair")


def test_crowds_and_ignored_are_no_targets(tmp_path):
    annotations = [annotation(id=1, iscrowd=1), annotation(id=2, ignore=1), annotation(id=3)]
    dataset = load_detection_set(*write(tmp_path, annotations=annotations), NAMES)
    assert len(dataset.records[0].boxes) == 1 and dataset.records[0].ignored.shape == (2, 4)
    assert dataset.describe().endswith("2 images, 1 objects, 2 ignored regions")
    dataset = load_detection_set(*write(tmp_path, annotations=annotations), NAMES, crowd_targets=True)
    assert len(dataset.records[0].boxes) == 2 and dataset.records[0].ignored.shape == (1, 4)


def test_boxes_that_vanish_in_float32_are_without_area(tmp_path):
    """A width below the resolution of float32 would be a target of width 0, whose logarithm is taken."""
    annotations = [annotation(id=1, bbox=[99.9999999, 0, 5, 5]), annotation(id=2, bbox=[10, 20, 5, 1e-9])]
    dataset = load_detection_set(*write(tmp_path, annotations=annotations), NAMES)
    assert dataset.dropped == {"boxes: without area": 2}
    assert dataset.records[0].boxes.shape == (0, 4)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    folder, file = write(tmp_path)
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert len(load_detection_set(folder, file, NAMES).records) == 2


def test_names_may_be_anything(tmp_path):
    name = "P 0706, \u65b0 [1] %d.PNG"
    images = [{"id": 5, "file_name": name, "width": 100, "height": 80}]
    paths = write(tmp_path, images=images)
    cv2.imencode(".png", np.zeros((80, 100, 3), np.uint8))[1].tofile(tmp_path / name)
    record = load_detection_set(*paths, NAMES).records[0]
    assert record.path == tmp_path / name and len(record.boxes) == 2


@pytest.mark.parametrize(
    "changes,named",
    [
        ({"images": []}, "no images in it"),
        ({"images": None}, "'images' is missing"),
        ({"categories": []}, "it has no categories"),
        ({"categories": [{"id": 1, "name": "boat"}]}, "not in labels: boat; set labels"),
        ({"categories": [{"id": 7, "name": "plane"}, {"id": 7, "name": "ship"}]}, "duplicate name or id"),
        ({"annotations": [annotation(category_id=99)]}, "category_id 99 is not among the categories"),
        ({"annotations": [annotation(image_id=77)]}, "image_id 77 is not among the images"),
        ({"annotations": [annotation(bbox=[1, 2, 3])]}, "not four numbers"),
        ({"annotations": [annotation(bbox="1234")]}, "not four numbers"),
        ({"annotations": [annotation(bbox=["1", "2", "3", "4"])]}, "not four numbers"),
        ({"annotations": [annotation(bbox={"1": 0, "2": 0, "3": 0, "4": 0})]}, "not four numbers"),
        ({"annotations": [annotation(bbox=[1, 2, 10**400, 4])]}, "not four numbers"),
        ({"annotations": [annotation(iscrowd="0")]}, "iscrowd '0' is neither 0 nor 1"),
        ({"annotations": [annotation(ignore=[1])]}, "ignore .* is neither 0 nor 1"),
        ({"annotations": [annotation(id="a\nb", category_id=99)]}, r"annotation a\\nb: category_id 99"),
        ({"annotations": [annotation(image_id="5")]}, "image_id '5' is not among"),
        ({"annotations": [{"id": 1, "image_id": 5, "category_id": 7}]}, "lacks 'bbox'"),
        ({"annotations": [annotation(image_id=[5])]}, "is a list"),
        ({"images": BASE["images"] + [BASE["images"][0]]}, "duplicate image id 5"),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 100}]}, "lacks 'height'"),
        ({"images": [{"id": 5, "file_name": "../a.png", "width": 1, "height": 1}]}, "inside the folder"),
        (
            {"images": [{"id": 5, "file_name": "c.png", "width": 1, "height": 1}], "annotations": []},
            r"c\.png",
        ),
        ({"images": [{"id": "x", "file_name": "a.png", "width": 1, "height": 1}]}, "no whole number"),
        ({"images": [{"id": 10**30, "file_name": "a.png", "width": 1, "height": 1}]}, "no whole number"),
        ({"images": [{"id": 5, "file_name": "a.png", "width": 10**400, "height": 1}]}, "width 1000"),
        ({"images": [{"id": 5, "file_name": ".", "width": 1, "height": 1}]}, "inside the folder"),
        ({"images": [{"id": 5, "file_name": "x" * 300 + "/a.png", "width": 9, "height": 9}]}, "are not in"),
        ({"images": [{"id": 5, "file_name": "\ud800\n\0.png", "width": 9, "height": 9}]}, r"\\ud800\\n"),
        ({"categories": [{"id": 2**40, "name": "plane"}]}, "plane: id .* normal size"),
        ({"categories": BASE["categories"] + [{"id": 9, "name": "\ud800"}]}, r"labels: \\ud800"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, named):
    with pytest.raises(UserError, match=named) as caught:
        load_detection_set(*write(tmp_path, **changes), NAMES)
    line = str(caught.value)
    assert str(tmp_path / "t.json") in line and line.isprintable() and len(line) < 1000


def test_an_empty_annotation_file(tmp_path):
    folder, file = write(tmp_path)
    file.write_text("")
    with pytest.raises(UserError, match="no valid JSON"):
        load_detection_set(folder, file, NAMES)
    write(tmp_path, annotations=[])
    with pytest.raises(UserError, match="no image with objects is left"):
        load_detection_set(folder, file, NAMES, keep_empty=False)
    file.write_text("[]")
    with pytest.raises(UserError, match="not a COCO annotation file"):
        load_detection_set(folder, file, NAMES)
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match="no valid JSON"):
        load_detection_set(folder, file, NAMES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 120) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    where=st.sampled_from(["images", "annotations", "categories"]),
    key=st.text(max_size=4),
    value=json_values,
    field=st.sampled_from(["id", "image_id", "category_id", "bbox", "file_name", "width", "name", "iscrowd"]),
)
@settings(max_examples=300, deadline=None)
def test_mutated_files_succeed_or_are_refused(tmp_path_factory, where, key, value, field):
    tmp_path = tmp_path_factory.mktemp("mutated")
    document = copy.deepcopy(BASE)
    document[where][0][field] = value
    document[where][-1][key] = value
    try:
        load_detection_set(*write(tmp_path, **document), NAMES)
    except UserError as error:
        assert str(tmp_path) in str(error) and str(error).isprintable()


def test_resolve_set_by_dota_and_coco_names(tmp_path):
    with pytest.raises(UserError, match="data_dir: not set"):
        resolve_set("", "train")
    with pytest.raises(UserError, match=r"train2017"):
        resolve_set(tmp_path, "train")
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val"):
        (tmp_path / name).mkdir()
    (tmp_path / "annotations/instances_train2017.json").touch()
    (tmp_path / "annotations/val.json").touch()
    assert resolve_set(tmp_path, "train") == (
        tmp_path / "train2017", tmp_path / "annotations/instances_train2017.json",
    )  # fmt: skip
    assert resolve_set(tmp_path, "val") == (tmp_path / "val", tmp_path / "annotations/val.json")
