"""The report: its numbers are those of the metrics, names cannot break out of their places, and it stays small."""

import base64
import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from src.config import load_config
from src.detect.detections import DETECTION
from src.evaluation.analysis import confusion_matrix, pair_images, score_thresholds
from src.evaluation.coco_metrics import evaluate_coco
from src.report import sections
from src.report.gallery import EACH, MOST_FOR_CLASSES, choose_images
from src.report.history import EpochRow
from src.report.html_report import Report
from src.report.svg import column_chart, line_chart, ticks
from src.yolo_dataset import load_detection_set
from tests.tiny import tiny_config, write_tiles

HOSTILE = "\"><script>alert(1)</script><img src=http://example.com/x onerror=alert(2)>&'\ud800"


def write_case(root, val=5, name=None):
    """A set and detections of it: most objects found, some missed, some wrong. (dataset, table)."""
    write_tiles(root, val=val)
    ann_file = root / "annotations" / "val.json"
    document = json.loads(ann_file.read_text())
    names = ["ship", name or "plane"]
    document["categories"][1]["name"] = names[1]
    ann_file.write_text(json.dumps(document))
    dataset = load_detection_set(root / "val", ann_file, names)
    rng = np.random.default_rng(4)
    rows = []
    for record in dataset.records:
        for box, label in zip(record.boxes, record.classes):
            if rng.random() < 0.8:
                guess = label if rng.random() < 0.8 else 1 - label
                x1, y1, x2, y2 = box + rng.normal(0, 1.5, 4)
                rows.append(
                    (record.id, (x1, y1, x2 - x1, y2 - y1), rng.uniform(0.4, 1), dataset.category_ids[guess])
                )
        rows.append((record.id, (1, 1, 20, 20), rng.uniform(0.01, 0.99), 1))
    return dataset, np.array(rows, DETECTION)


def scored(dataset, table):
    result = evaluate_coco(dataset.ann_file, table, dataset.class_names, dataset.category_ids)
    return result, pair_images(dataset, table, score_thresholds(result))


def write_report(folder, dataset, table, rows=()):
    report = Report(folder, "Training x", [("validation", dataset)], max_epoch=3)
    report.add_evaluation(scored(dataset, table)[0], table, dataset, epoch=2)
    report.write(list(rows), is_running=bool(rows))
    return report.path.read_text(encoding="utf-8")


class Tables(HTMLParser):
    """Rows of text of every table under the id of its section, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.tags, self.section, self.cell = {}, [], "", None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"]
        elif tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        elif tag in ("td", "th"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[self.section][-1].append(self.cell)
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data


def test_numbers_of_the_page_are_those_of_the_metrics(tmp_path):
    dataset, table = write_case(tmp_path / "set")
    result, images = scored(dataset, table)
    page = Tables(write_report(tmp_path, dataset, table))
    assert 0.1 < result.mean_ap < 0.95
    for entry, row in zip(result.classes, page.tables["classes"][1:]):
        assert row == [
            entry.name, str(entry.objects), f"{entry.ap:.3f}", f"{entry.ap50:.3f}", f"{entry.recall:.3f}",
            f"{entry.best_f1:.3f}", f"{entry.best_threshold:.3f}",
        ]  # fmt: skip
    matrix = confusion_matrix(images, 2)
    shown = [[int(cell or 0) for cell in row[1:]] for row in page.tables["confusion"][1:]]
    assert shown == matrix.tolist() and matrix.sum() > 15
    for entry, row in zip(result.sizes, page.tables["sizes"][1:]):
        assert row == [entry.name, str(entry.objects), f"{entry.ap50:.3f}" if entry.objects else ""]
    assert page.tables["data"][1:] == [["ship", "10"], ["plane", "5"], ["all", "15"]]


def test_facts_and_epochs(tmp_path):
    dataset, table = write_case(tmp_path / "set")
    rows = [
        EpochRow(1, 3, 30.5, 10.25, 20, 0.25, 0.01, math.nan, math.nan, 4.5, 1.25),
        EpochRow(2, 6, 20.5, 10, 10, 0.5, 0.005, 0.321, 0.654, 5, 1),
    ]
    text = write_report(tmp_path, dataset, table, rows)
    assert "<b>2 of 3</b>" in text and "<b>0.321</b><small>best AP, epoch 2</small>" in text
    assert f"<b>{scored(dataset, table)[0].mean_ap:.3f}</b><small>AP after epoch 2</small>" in text
    assert 'data-reload="60"' in text
    cells = Tables(text).tables["curves"]
    assert cells[1] == ["1", "3", "30.50", "10.25", "20.00", "0.25", "0.01", "", "", "4.50", "1.2"]
    assert cells[2][7:9] == ["0.321", "0.654"]
    assert 'data-reload="0"' in write_report(tmp_path, dataset, table)


def test_hostile_names_stay_text(tmp_path):
    dataset, table = write_case(tmp_path / "set", name=HOSTILE)
    name = '<img src=x onerror="alert(3)">&.png'
    path = dataset.records[0].path
    moved = path.rename(path.with_name(name))
    object.__setattr__(dataset.records[0], "path", moved)
    text = write_report(tmp_path, dataset, table)
    page = Tables(text)
    clean = Tables(write_report(tmp_path, *write_case(tmp_path / "clean")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in clean.tags]
    keys = {key for _, attributes in page.tags for key in attributes}
    assert keys == {key for _, attributes in clean.tags for key in attributes}
    assert not any(key.startswith("on") for key in keys)
    assert page.tables["classes"][2][0] == HOSTILE.replace("\ud800", "?")
    assert "&lt;img src=x onerror=" in text and "<script>alert" not in text


def test_the_page_names_no_other_place(tmp_path):
    text = write_report(tmp_path, *write_case(tmp_path / "set"))
    page = Tables(text)
    for _, attributes in page.tags:
        for key in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    (policy,) = [each["content"] for tag, each in page.tags if each.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_images_are_inlined_once_and_small(tmp_path):
    dataset, table = write_case(tmp_path / "set")
    text = write_report(tmp_path, dataset, table)
    found = re.findall(r'href="data:image/jpeg;base64,([^"]+)"', text)
    assert len(found) == 5
    for data in found:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (120, 150, 3)
    shown = re.findall(r'<path class="box c(\d)( wrong)?" data-class="\1" d="([^"]+)"/>', text)
    _, images = scored(dataset, table)
    boxes = sum(path.count("Z") for *_, path in shown)
    assert boxes == sum(len(each.boxes) + len(each.record.boxes) for each in images)
    wrong = sum(path.count("Z") for _, kind, path in shown if kind)
    assert wrong == sum(each.mistakes for each in images)


def test_chosen_images_are_the_best_the_worst_and_the_most_crowded(tmp_path):
    dataset, table = write_case(tmp_path / "set", val=40)
    _, images = scored(dataset, table)
    chosen = choose_images(images)
    of_kind = {
        kind: [each for each, kinds in chosen if kind in kinds] for kind in ("best", "worst", "crowded")
    }
    f1 = sorted(each.f1 for each in images)
    assert sorted(each.f1 for each in of_kind["best"]) == f1[-EACH:]
    assert sorted(each.f1 for each in of_kind["worst"]) == f1[:EACH] and f1[0] < f1[-1]
    assert len(of_kind["crowded"]) == EACH and len(chosen) <= 3 * EACH + MOST_FOR_CLASSES


def test_a_rare_class_is_shown(tmp_path):
    """Only one of forty images, neither best nor worst nor crowded, has the class."""
    root = write_tiles(tmp_path / "set", val=40)
    ann_file = root / "annotations" / "val.json"
    document = json.loads(ann_file.read_text())
    for entry in document["annotations"]:
        entry["category_id"] = 2 if entry["image_id"] == 30 and entry["category_id"] == 2 else 1
    ann_file.write_text(json.dumps(document))
    dataset = load_detection_set(root / "val", ann_file, ("ship", "plane"))
    rows = []
    for record in dataset.records:
        found = (0, 2) if record.id == 30 else range(2 + record.id % 2)
        for box in record.boxes[list(found)]:
            rows.append((record.id, (*box[:2], *(box[2:] - box[:2])), 0.9, 1))
    chosen = choose_images(pair_images(dataset, np.array(rows, DETECTION), np.zeros(2)))
    assert [image.record.id for image, kinds in chosen if kinds == ("class",)] == [30]


def test_statistics_of_the_set(tmp_path):
    """All objects are 36 x 26 (side 30.6), but for one cut to 36 x 4 (side 12); three an image."""
    dataset, _ = write_case(tmp_path / "set")
    dataset.records[0].boxes[0, 3] = dataset.records[0].boxes[0, 1] + 4
    assert sections.size_counts(dataset) == {
        "below 8": 0, "8 to 16": 1, "16 to 32": 14, "32 to 64": 0, "64 to 128": 0, "from 128": 0
    }  # fmt: skip
    assert sections.crowd_counts(dataset) == {
        "0": 0, "1-5": 5, "6-20": 0, "21-50": 0, "51-100": 0, "101-200": 0, "201-500": 0, "501+": 0
    }  # fmt: skip
    assert sections.object_counts(dataset).tolist() == [10, 5]


def test_lines_are_drawn_where_the_numbers_say():
    svg = line_chart([("a<b", [(0, 0), (5, 50), (10, 100), (11, math.nan)])], title="t", x_label="x & y")
    root = ElementTree.fromstring(svg.split("<p class")[0])
    (line,) = [each for each in root.iter() if each.tag == "polyline"]
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.get("points").split())
    assert x1 - x0 == pytest.approx(x2 - x1) and y0 - y1 == pytest.approx(y1 - y2) and x2 > x0 and y2 < y0
    assert "a&lt;b" in svg and "x &amp; y" in svg
    assert "nothing yet" in line_chart([("a", [(1, math.nan)])], title="t", x_label="x")
    assert "<circle" in line_chart([("a", [(1, 2)])], title="t", x_label="x")


def test_columns_have_the_heights_of_their_values():
    root = ElementTree.fromstring(
        column_chart(["a", "b", "c"], [1, 4, math.nan], title="t", x_label="x").replace("–", "-")
    )
    heights = [float(each.get("height")) for each in root if each.tag == "rect"]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3) and heights[2] == 0


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 1280.7), (0.003, 0.0031), (-5, 5), (3, 3)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 6 and all(low - 1e-9 <= value <= high + 1e-9 for value in found)


def test_an_evaluation_without_any_detection_or_object(tmp_path):
    dataset, table = write_case(tmp_path / "set")
    assert "nothing yet" not in write_report(tmp_path, dataset, table[:0])
    root = write_tiles(tmp_path / "empty")
    ann_file = root / "annotations" / "val.json"
    ann_file.write_text(json.dumps({**json.loads(ann_file.read_text()), "annotations": []}))
    empty = load_detection_set(root / "val", ann_file, ("ship", "plane"))
    assert "no images" in write_report(tmp_path, empty, table[:0])


def test_event_files_hold_the_scalars(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (requirements-tensorboard.txt)")
    from tensorboardX import proto

    from src.report.events import EventFiles

    events = EventFiles(tmp_path / "events")
    events.add(7, {"loss/total": 1.5, "train/lr": 0.25})
    events.close()
    (path,) = (tmp_path / "events").iterdir()
    data, values = path.read_bytes(), {}
    while data:  # TFRecord: length (8), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
        values.update({value.tag: (event.step, value.simple_value) for value in event.summary.value})
        data = data[16 + size :]
    assert values == {"loss/total": (7, 1.5), "train/lr": (7, 0.25)}


def test_absent_tensorboard_is_one_line(tmp_path, monkeypatch):
    import sys

    from src.base.errors import UserError
    from src.report.events import EventFiles

    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-tensorboard\.txt"):
        EventFiles(tmp_path)
    assert load_config([]).tensorboard is False


def test_show_batch_draws_the_assigned_anchors(tmp_path):
    """Every drawn anchor is one that its box overlaps by more than 0.213, or its best."""
    from src.commands.show_batch import draw_batches
    from src.layers.anchors import SECOND_PASS_OVERLAP, shape_iou
    from src.targets import TargetAssigner
    from src.train.assignment_view import assigned_anchors, contact_sheet, draw_assignment

    tiles = write_tiles(tmp_path / "set")
    config = tiny_config(tiles, tmp_path, "--per_batch_size=3", "--max_box=5")
    (path,) = draw_batches(config, epoch=0, batches=1, columns=2, out=tmp_path / "sheets")
    assert cv2.imread(str(path)).shape == (2 * (96 + 24 + 8) + 8, 2 * (2 * 96 + 6 + 8) + 8, 3)

    import mindspore as ms

    boxes = np.array([[[10, 20, 46, 46, 0], [51, 50, 63, 66, 1], [0, 0, 0, 0, 0]]], np.float32)
    assigned, truth, _, _ = (
        value.asnumpy() for value in TargetAssigner(2, config.heads)(ms.Tensor(boxes), (96, 96))
    )
    found = assigned_anchors(assigned[0], truth[:, 0], (96, 96), config.heads)
    shapes = np.array(config.anchor_scales, np.float64)
    expected = []
    for x1, y1, x2, y2, _ in boxes[0, :2].tolist():
        overlap = shape_iou(np.array([[x2 - x1, y2 - y1]]), shapes)[:, 0]
        for number in np.flatnonzero((overlap > SECOND_PASS_OVERLAP) | (overlap == overlap.max())):
            stride, (w, h) = (8, 16, 32)[number // 3], shapes[number]
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            cell = [(value // stride + 0.5) * stride for value in (x, y)]
            expected.append((2 - number // 3, *cell, x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    assert len(expected) > 4
    order = [sorted(map(tuple, np.round(rows, 2).tolist())) for rows in (found, expected)]
    np.testing.assert_allclose(order[0], order[1], atol=0.02)
    drawn = draw_assignment(np.zeros((96, 96, 3), np.uint8), boxes[0, :2, :4], found, config.heads.strides)
    assert (drawn[20, 10:46] == 255).all()
    sheet = contact_sheet([drawn] * 3, 2)
    assert np.array_equal(sheet[8:104, 8:104], drawn) and (sheet[112:208, 112:208] == 32).all()
