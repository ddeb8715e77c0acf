"""VOC, YOLO and DOTA data sets to COCO's format: coordinates, layouts, counts, and errors that name their place."""

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.commands.convert_to_coco import main
from src.config import load_config
from src.datasets.dota_labels import CLASSES_V1_5, DotaObject, write_labels
from src.datasets.formats.coco_writer import WriteOptions, file_names, labels_option, write_coco
from src.datasets.formats.dota_scenes import read_dota
from src.datasets.formats.labelled import ReadOptions, split_by_share
from src.datasets.formats.voc import read_voc, read_voc_xml
from src.datasets.formats.yolo_txt import read_yolo, read_yolo_labels
from src.imaging.image_io import read_rgb, write_image
from src.yolo_dataset import load_detection_set, resolve_set
from tests import ROOT


def image(path: Path, width=100, height=80, shade=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((height, width, 3), shade, np.uint8))
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc_xml(name, objects, size=(100, 80)):
    """objects: (class, xmin, ymin, xmax, ymax, difficult)."""
    entries = "".join(
        f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2, difficult in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{sides}{entries}</annotation>"


def make_voc(root: Path, count=6, lists=True) -> Path:
    for number in range(count):
        image(root / "JPEGImages" / f"p{number}.png", shade=number)
        objects = [("ship", 1, 1, 10, 20, 0), ("plane", 41, 31, 100, 80, 1)][: number % 3]
        write(root / "Annotations" / f"p{number}.xml", voc_xml(f"p{number}", objects))
    if lists:
        write(root / "ImageSets" / "Main" / "train.txt", "p0\np1\np2\np3\n")
        write(root / "ImageSets" / "Main" / "val.txt", "p4\np5\n")
    return root


def loaded(out: Path, split: str, names):
    return load_detection_set(*resolve_set(out, split), names, invalid_boxes="error")


def convert(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


# ---------------------------------------------------------------- VOC


def test_voc_boxes_are_those_of_the_pixels_they_name(tmp_path):
    """A box drawn on an image covers exactly the pixels first..last that VOC counts from 1."""
    path = write(tmp_path / "a.xml", voc_xml("a", [("ship", 3, 5, 7, 6, 0)]))
    _, size, (entry,) = read_voc_xml(path)
    canvas = np.zeros((80, 100), int)
    columns, rows = np.arange(1, 101), np.arange(1, 81)
    canvas[np.ix_((rows >= 5) & (rows <= 6), (columns >= 3) & (columns <= 7))] = 1
    x1, y1, x2, y2 = map(int, entry.box)
    assert canvas[y1:y2, x1:x2].sum() == canvas.sum() == (x2 - x1) * (y2 - y1) == 10
    assert size == (100, 80)
    _, _, (from_zero,) = read_voc_xml(path, zero_based=True)
    assert from_zero.box == (3, 5, 8, 7)


def test_voc_set_by_its_lists(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    image(src / "JPEGImages" / "unlabelled.png")
    write(src / "Annotations" / "p9.xml", voc_xml("p9", []))
    code, text = convert(capsys, "--format", "voc", "--src", src, "--out", tmp_path / "out")
    assert code == 0, text
    names = ("plane", "ship")  # of the objects, by the alphabet
    train, val = (loaded(tmp_path / "out", split, names) for split in ("train", "val"))
    assert [record.path.name for record in train.records] == ["p0.png", "p1.png", "p2.png", "p3.png"]
    assert [record.path.name for record in val.records] == ["p4.png", "p5.png"]
    assert train.records[2].boxes.tolist() == [[0, 0, 10, 20], [40, 30, 100, 80]]
    assert train.records[2].classes.tolist() == [1, 0]
    assert train.records[0].path.is_symlink() and read_rgb(train.records[2].path)[0, 0, 0] == 2
    document = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert [entry["difficult"] for entry in document["annotations"]] == [0, 0, 1]
    assert [entry["iscrowd"] for entry in document["annotations"]] == [0, 0, 0]
    for line in (
        "train: 4 images (2 of them without objects), 3 objects",
        "val: 2 images (0 of them without objects), 3 objects",
        "left out: 1 images in no list",
        "left out: 1 images without an annotation file",
        "--labels=plane,ship",
    ):
        assert line in text, text


def test_voc_split_by_share_is_a_function_of_the_seed(tmp_path):
    src = make_voc(tmp_path / "voc", count=20, lists=False)
    splits = [read_voc(src, ReadOptions(val_share=0.25, seed=seed)).splits for seed in (1, 1, 2)]
    chosen = [{split: [item.path.name for item in found] for split, found in each.items()} for each in splits]
    assert chosen[0] == chosen[1] != chosen[2]
    for each in chosen:
        assert len(each["val"]) == 5 and sorted(each["train"] + each["val"]) == sorted(
            f"p{n}.png" for n in range(20)
        )


def test_difficult_objects_can_be_ignored_and_classes_chosen(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    words = ("--format", "voc", "--src", src, "--ignore_difficult", "--placing", "copy")
    code, text = convert(capsys, *words, "--out", tmp_path / "a", "--labels", "ship,plane")
    assert code == 0 and "2 objects, 1 more ignored as difficult" in text
    record = loaded(tmp_path / "a", "train", ("ship", "plane")).records[2]
    assert record.classes.tolist() == [0] and record.ignored.tolist() == [[40, 30, 100, 80]]
    assert not record.path.is_symlink()
    assert record.path.read_bytes() == (src / "JPEGImages" / "p2.png").read_bytes()
    code, text = convert(capsys, *words, "--out", tmp_path / "b", "--labels", "ship")
    assert code == 2 and "p2.xml: object 2 (plane): class 'plane' is not in --labels" in text
    code, text = convert(capsys, *words, "--out", tmp_path / "b", "--labels", "ship", "--drop_other_classes")
    assert code == 0 and "left out: 2 objects of class 'plane'" in text


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotation>&y;</annotation>'
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
)


@pytest.mark.parametrize("text", [BOMB, OUTSIDE])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(tmp_path, text, encoding):
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"a\.xml: declares a document type"):
        read_voc_xml(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("<xmin>1<", "<xmin>abc<"), r"p1\.xml: object 1 \(ship\): <xmin> 'abc' is no number"),
        (("<xmin>1<", "<xmin>nan<"), r"p1\.xml: object 1 \(ship\): <xmin> 'nan' is no number"),
        (("<ymax>20</ymax>", ""), r"p1\.xml: object 1 \(ship\): <ymax> is missing"),
        (("<name>ship<", "<name> <"), r"p1\.xml: object 1 has no <name>"),
        (("bndbox>", "robndbox>"), r"has no <bndbox> but a rotated box"),
        (("<difficult>0", "<difficult>maybe"), r"<difficult> 'maybe' is neither 0 nor 1"),
        (("</annotation>", ""), r"p1\.xml: no valid XML"),
        (("annotation>", "note>"), r"p1\.xml: <note> is no VOC annotation"),
        (("<width>100<", "<width>300<"), r"p1\.xml: <size> is 300x80, .*p1\.png is 100x80"),
    ],
)
def test_bad_voc_files_are_named(tmp_path, change, message):
    src = make_voc(tmp_path / "voc")
    path = src / "Annotations" / "p1.xml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        read_voc(src, ReadOptions())


def test_missing_images_are_named_or_left_out(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    (src / "JPEGImages" / "p1.png").unlink()
    (src / "ImageSets" / "Main" / "val.txt").write_text("p4\np5\np5\nnever\n")
    words = ("--format", "voc", "--src", src, "--out", tmp_path / "out")
    code, text = convert(capsys, *words)
    assert code == 2 and "2 images or their files are missing" in text
    assert "p1.xml" in text and "never.xml" in text
    assert not (tmp_path / "out").exists()
    code, text = convert(capsys, *words, "--skip_missing")
    assert code == 0 and "left out: 2 images that are missing" in text
    assert "left out: 1 images listed twice" in text
    assert "train: 3 images" in text and "val: 2 images" in text


def test_a_list_that_is_not_there_is_named_with_those_that_are(tmp_path):
    src = make_voc(tmp_path / "voc")
    (src / "ImageSets" / "Main" / "val.txt").rename(src / "ImageSets" / "Main" / "test.txt")
    with pytest.raises(UserError, match=r"val\.txt: no such list \(there: test, train\)"):
        read_voc(src, ReadOptions())
    found = read_voc(src, ReadOptions(split_names=("train", "test")))
    assert [len(found.splits[split]) for split in ("train", "val")] == [4, 2]


def test_boxes_without_area_outside_or_twice_are_counted(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    objects = [("ship", 20, 20, 10, 40, 0), ("ship", 150, 1, 160, 9, 0), *[("ship", 90, 70, 120, 90, 0)] * 2]
    write(src / "Annotations" / "p0.xml", voc_xml("p0", objects))
    code, text = convert(capsys, "--format", "voc", "--src", src, "--out", tmp_path / "out")
    assert code == 0
    for line in ("1 boxes without area", "1 boxes outside their image", "1 duplicate boxes"):
        assert f"left out: {line}" in text
    record = loaded(tmp_path / "out", "train", ("plane", "ship")).records[0]
    assert record.boxes.tolist() == [[89, 69, 100, 80]]  # clipped


# ---------------------------------------------------------------- YOLO

YOLO_LINE = "1 0.5 0.25 0.2 0.5\n"  # of 100 x 80: x 40..60, y 0..40


def yolo_images(root: Path, folders: dict[str, list[str]], labels: dict[str, str]) -> None:
    for folder, names in folders.items():
        for name in names:
            image(root / folder / f"{name}.png")
            write(root / labels[folder] / f"{name}.txt", YOLO_LINE)


def by_image_folders(root: Path):
    yolo_images(
        root,
        {"images/train": ["a", "b"], "images/val": ["c"]},
        {"images/train": "labels/train", "images/val": "labels/val"},
    )
    write(root / "classes.txt", "ship\nplane\n")


def by_split_folders(root: Path):
    """As an annotation service exports it: `valid`, and paths that begin with one folder too many."""
    yolo_images(
        root,
        {"train/images": ["a", "b"], "valid/images": ["c"]},
        {"train/images": "train/labels", "valid/images": "valid/labels"},
    )
    write(
        root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['ship', 'plane']\n"
    )


def by_lists(root: Path):
    yolo_images(root, {"images": ["a", "b", "c"]}, {"images": "labels"})
    write(root / "train.txt", f"images/a.png\n{root / 'images' / 'b.png'}\n")
    write(root / "val.txt", "./images/c.png\n")
    write(root / "obj.names", "ship\nplane\n")


def by_data_yaml(root: Path):
    yolo_images(
        root, {"sets/x": ["a"], "sets/y": ["b"], "sets/z": ["c"]}, {f"sets/{k}": f"sets/{k}" for k in "xyz"}
    )
    write(root / "data.yaml", "path: sets\ntrain: [x, y]\nval: z\nnames:\n  0: ship\n  1: plane\n")


@pytest.mark.parametrize("layout", [by_image_folders, by_split_folders, by_lists, by_data_yaml])
def test_yolo_layouts(tmp_path, capsys, layout):
    src = tmp_path / "images" / "set"  # a folder of that name above the set must not matter
    layout(src)
    code, text = convert(capsys, "--format", "yolo", "--src", src, "--out", tmp_path / "out")
    assert code == 0, text
    assert "--labels=ship,plane" in text
    for split, names in (("train", ["a.png", "b.png"]), ("val", ["c.png"])):
        records = loaded(tmp_path / "out", split, ("ship", "plane")).records
        assert [record.path.name for record in records] == names
        for record in records:
            assert record.boxes.tolist() == [[40, 0, 60, 40]] and record.classes.tolist() == [1]


def test_yolo_split_by_share_and_empty_images(tmp_path, capsys):
    yolo_images(tmp_path, {"images": [f"p{n}" for n in range(9)]}, {"images": "labels"})
    image(tmp_path / "images" / "bare.png")
    write(tmp_path / "labels" / "p0.txt", "")
    code, text = convert(
        capsys,
        "--format=yolo",
        f"--src={tmp_path}",
        f"--out={tmp_path / 'out'}",
        "--names=ship,plane",
        "--val_share=0.3",
    )
    assert code == 0, text
    assert "train: 7 images" in text and "val: 3 images" in text
    assert "note: 1 images have no label file" in text
    counts = [
        sum(len(r.boxes) for r in loaded(tmp_path / "out", s, ("ship", "plane")).records)
        for s in ("train", "val")
    ]
    assert sum(counts) == 8


def test_yolo_outlines_become_boxes(tmp_path):
    path = write(tmp_path / "a.txt", "0 0.1 0.2 0.5 0.1 0.3 0.6\n1 0.2 0.2 0.4 0.2 0.4 0.5 0.2 0.5\n")
    first, second = read_yolo_labels(path, ("ship", "plane"), 200, 100)
    assert first.box == pytest.approx((20, 10, 100, 60)) and first.name == "ship"
    assert second.box == pytest.approx((40, 20, 80, 50)) and second.where.endswith("a.txt:2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", r"a\.txt:2: class 2 is not one of the 2 classes"),
        ("-1 0.5 0.5 0.1 0.1", r"a\.txt:2: class -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"a\.txt:2: class 0.5"),
        ("nan 0.5 0.5 0.1 0.1", r"a\.txt:2: class nan"),
        ("ship 0.5 0.5 0.1 0.1", r"a\.txt:2: expected numbers"),
        ("0 50 40 10 10", r"a\.txt:2: 50 40 10 10 are no shares"),
        ("0 0.5 nan 0.1 0.1", r"a\.txt:2: .* are no shares"),
        ("0 0.5 0.5 0.1", r"a\.txt:2: 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"a\.txt:2: 6 numbers"),
    ],
)
def test_bad_yolo_lines_are_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read_yolo_labels(write(tmp_path / "a.txt", YOLO_LINE + line + "\n"), ("ship", "plane"), 100, 80)


def test_yolo_sets_that_lack_something(tmp_path):
    by_image_folders(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match="--names: no names of the classes"):
        read_yolo(tmp_path, ReadOptions())
    options = ReadOptions(names=("ship", "plane"))
    (tmp_path / "images" / "train" / "a.png").unlink()
    with pytest.raises(UserError, match=r"1 images or their files are missing: the image of .*a\.txt"):
        read_yolo(tmp_path, options)
    with pytest.raises(UserError, match=r"no images of 'test'"):
        read_yolo(tmp_path, ReadOptions(names=("ship", "plane"), split_names=("train", "test")))
    (tmp_path / "labels").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"no label file for any of 2 images, expected for example .*labels/train/b\.txt"
    ):
        read_yolo(tmp_path, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, [b]]", "names: expected a list of names"),
        ("names: {0: a, 2: b}", "the numbers of the classes must be 0 to 1"),
        ("names: [a, a]", "named twice: 'a'"),
        ("names: [a", r"data\.yaml: not valid YAML"),
        ("- a", r"data\.yaml: expected `names:`"),
        ("names: !!python/object/apply:os.system ['true']", r"data\.yaml: not valid YAML"),
        ("names: [a, b]\ntrain: nowhere\nval: nowhere", r"data\.yaml: train: no nowhere in"),
    ],
)
def test_bad_data_yaml_is_named(tmp_path, text, message):
    image(tmp_path / "images" / "a.png")
    write(tmp_path / "data.yaml", text)
    with pytest.raises(UserError, match=message):
        read_yolo(tmp_path, ReadOptions())


# ---------------------------------------------------------------- DOTA


def make_dota(root: Path, names) -> None:
    for number, name in enumerate(names):
        image(root / "images" / f"{name}.png", 300, 200)
        polygon = np.array([(50, 20), (90, 60), (50, 100), (10, 60)], float) + number
        (root / "labelTxt").mkdir(exist_ok=True)
        write_labels(root / "labelTxt" / f"{name}.txt", [DotaObject(polygon, "ship", number == 1)])


@pytest.mark.parametrize("own_split", [True, False])
def test_dota_scenes_as_images(tmp_path, capsys, own_split):
    if own_split:
        make_dota(tmp_path / "src" / "train", ["A", "B"])
        make_dota(tmp_path / "src" / "val", ["C"])
    else:
        make_dota(tmp_path / "src", ["A", "B", "C"])
    code, text = convert(capsys, "--format", "dota", "--src", tmp_path / "src", "--out", tmp_path / "out")
    assert code == 0, text
    assert f"--labels={','.join(CLASSES_V1_5)}" in text
    records = [r for split in ("train", "val") for r in loaded(tmp_path / "out", split, CLASSES_V1_5).records]
    offset = {"A": 0, "B": 1, "C": 0 if own_split else 2}
    assert sorted(record.path.stem for record in records) == ["A", "B", "C"]
    for record in records:
        shift = offset[record.path.stem]
        assert record.boxes.tolist() == [[10 + shift, 20 + shift, 90 + shift, 100 + shift]]
    found = read_dota(tmp_path / "src", ReadOptions(names=CLASSES_V1_5))
    assert (
        sum(entry.difficult for items in found.splits.values() for item in items for entry in item.objects)
        == 1
    )


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "names",
    [("ship", "plane"), ("large vehicle", "it's"), ("no", "1", "a,b"), ("船", "[x]"), ("null", "yes: no")],
)
def test_the_labels_line_gives_the_names_back(names):
    """As the shell and the option parser read it."""
    (word,) = shlex.split(labels_option(names))
    assert load_config([word]).labels == list(names)


def test_images_of_one_name_keep_apart(tmp_path):
    paths = [image(tmp_path / folder / "1.png") for folder in ("a", "b")] + [image(tmp_path / "a" / "2.png")]
    assert file_names(paths) == ["a__1.png", "b__1.png", "2.png"]
    with pytest.raises(UserError, match=r"several images would be named a__1\.png"):
        file_names([*paths, image(tmp_path / "c" / "a__1.png")])


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    words = ("--format", "voc", "--src", src, "--out", tmp_path / "out", "--pictures", "copy")
    assert convert(capsys, *words)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, text = convert(capsys, *words)
    assert code == 2 and "is there already" in text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    found = read_voc(src, ReadOptions())
    found.splits["val"][0].path.unlink()  # vanishes between reading and writing
    with pytest.raises(UserError, match="cannot be written"):
        write_coco(found, tmp_path / "other", WriteOptions(placing="copy"))
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]


def test_a_share_of_zero_and_of_too_few(tmp_path):
    assert split_by_share("abc", ReadOptions(val_share=0.0), tmp_path) == {
        "train": ["a", "b", "c"],
        "val": [],
    }
    for count, share in itertools.product(range(2, 12), (0.01, 0.5, 0.99)):
        split = split_by_share(range(count), ReadOptions(val_share=share), tmp_path)
        assert min(map(len, split.values())) >= 1 and sorted(split["train"] + split["val"]) == list(
            range(count)
        )
    with pytest.raises(UserError, match="1 images cannot be split"):
        split_by_share("a", ReadOptions(), tmp_path)


def test_images_of_both_sets_are_noted(tmp_path, capsys):
    src = make_voc(tmp_path / "voc")
    write(src / "ImageSets" / "Main" / "val.txt", "p4\np3\n")
    _, text = convert(capsys, "--format", "voc", "--src", src, "--out", tmp_path / "out")
    assert "note: 1 images are in both train and val" in text and "p3.png" in text


def test_the_tool_runs_from_anywhere(tmp_path):
    make_voc(tmp_path / "voc")
    words = [sys.executable, ROOT / "utils/convert_to_coco.py", "--format=voc", "--src=voc", "--out=out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "train with: --data_dir=out --labels=plane,ship"


# ---------------------------------------------------------------- damaged files


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 400), cut=st.integers(0, 30), insert=st.binary(max_size=12))
def test_damaged_files_give_one_line_or_objects(tmp_path, place, cut, insert):
    """Whatever is cut from or put into a good file: objects with finite boxes, or one line that names the file."""
    xml = voc_xml("a", [("ship", 1, 1, 10, 20, 0), ("plane", 41, 31, 100, 80, 1)]).encode()
    text = ("\ufeff" + YOLO_LINE * 3 + "0 0.1 0.2 0.5 0.1 0.3 0.6\n").encode()
    for name, content, read in (
        ("a.xml", xml, lambda path: read_voc_xml(path)[2]),
        ("a.txt", text, lambda path: read_yolo_labels(path, ("ship", "plane"), 100, 80)),
    ):
        path = tmp_path / name
        start = place % len(content)
        path.write_bytes(content[:start] + insert + content[start + cut :])
        try:
            objects = read(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert all(np.isfinite(entry.box).all() and entry.name for entry in objects)


def test_deeply_nested_xml_is_refused_or_read(tmp_path):
    path = write(tmp_path / "deep.xml", "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>")
    assert read_voc_xml(path)[2] == []
