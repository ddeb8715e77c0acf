"""Names and addresses of others in logs, messages, tables, archives and JSON."""

import csv
import json
import logging
import zipfile

import numpy as np
import pytest

from src.base.atomic import write_json
from src.base.errors import UserError
from src.base.foreign_text import cell, one_printable
from src.detect.geojson import write_geojson
from src.detect.postprocess import Detections
from src.detect.results import ImageDetections, write_results
from src.evaluation.dota_submission import write_submission
from src.logger import get_logger, setup_logger
from src.remote.results_upload import _is_temporary

FORGED = "s\n2026-01-01 00:00:00,000:INFO:mAP 0.99\x1b[2J"
FOUND = Detections(
    np.array([[1, 2, 3, 4.0]], np.float32), np.array([0.5], np.float32), np.array([0], np.int32)
)


@pytest.mark.parametrize(
    "say",
    [
        lambda log: log.info("scene %s", FORGED),
        lambda log: log.info(f"scene {FORGED}"),
        lambda log: log.error("  %s of %d", ValueError(FORGED), 3),
        lambda log: log.warning("%r", FORGED),
    ],
)
def test_a_name_is_one_line_of_the_log(tmp_path, capsys, say):
    setup_logger(tmp_path)
    say(get_logger())
    written = next(tmp_path.glob("*.log")).read_text()
    for text in (written, capsys.readouterr().out):
        assert len(text.splitlines()) == 1 and text.strip().isprintable() and "mAP 0.99" in text
    for handler in list(get_logger().handlers):
        get_logger().removeHandler(handler)
        handler.close()


def test_a_class_name_cannot_forge_a_line_of_the_table():
    from src.evaluation.dota_metrics import SceneObjects, evaluate_dota

    truth = {"P1": SceneObjects(np.zeros((0, 4)), np.zeros(0, np.int32), np.zeros(0, bool))}
    table = evaluate_dota(truth, {"P1": FOUND}, (FORGED,)).table()
    assert len(table.splitlines()) == 3 and "\x1b" not in table


@pytest.mark.parametrize(
    "text, kept",
    [
        ("https://AK:SECRET@host/a.ckpt", "https://***@host/a.ckpt"),
        ("https://host/a.ckpt?X-Amz-Signature=SECRET", "https://host/a.ckpt"),
        (
            "s3://SECRET@b/c: no such bucket (https://e/x?sig=SECRET&a=1)",
            "s3://***@b/c: no such bucket (https://e/x",
        ),
        ("is it there? https://host/a", "is it there? https://host/a"),
    ],
)
def test_passwords_and_signatures_are_in_no_message(text, kept):
    assert str(UserError(text)).startswith(kept) and "SECRET" not in str(UserError(text))
    record = logging.LogRecord("a", logging.INFO, "f", 1, "%s", (text,), None)
    setup_logger()
    assert "SECRET" not in get_logger().handlers[0].format(record)


def test_cells_are_no_formulas(tmp_path):
    names = ("=HYPERLINK(1)", "+1", "-2", "@x", "plain", "a,b")
    (file,) = write_results(tmp_path, [ImageDetections("=cmd|x.png", 9, 9, FOUND)], names[:1], ["csv"])
    with file.open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[1][:2] == ["'=cmd|x.png", "'=HYPERLINK(1)"] and rows[1][3] == "1.000"
    assert [cell(name)[0] for name in names] == ["'", "'", "'", "'", "p", "a"]
    assert one_printable(names[0]) == names[0]


@pytest.mark.parametrize("name", ["../../evil", "a/b", "a\\b", "a\nb"])
def test_a_class_is_no_path_in_a_submission(tmp_path, name):
    with pytest.raises(UserError, match="is no name of a file in a submission"):
        write_submission({"P1": FOUND}, (name,), tmp_path / "Task2.zip")
    assert not list(tmp_path.iterdir())
    with zipfile.ZipFile(
        write_submission({"P1": FOUND}, ("ground-track-field",), tmp_path / "Task2.zip")
    ) as packed:
        assert packed.namelist() == ["Task2_ground-track-field.txt"]


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_geojson_and_json_have_finite_numbers_alone(tmp_path, value):
    found = Detections(
        np.ones((3, 4), np.float32), np.array([0.5, value, 0.5], np.float32), np.zeros(3, np.int32)
    )
    corners = np.zeros((3, 4, 2))
    corners[2, 1, 0] = value
    assert write_geojson(tmp_path / "a.geojson", found, ("ship",), corners) == 2
    assert len(strict((tmp_path / "a.geojson").read_text())["features"]) == 1
    write_json(tmp_path / "a.json", {"a": [1.5, float(value), {"b": (float(value),)}]})
    assert strict((tmp_path / "a.json").read_text()) == {"a": [1.5, None, {"b": [None]}]}


def test_half_an_export_is_not_uploaded():
    assert _is_temporary(".exporting-ab12/yolov4.onnx") and _is_temporary("out/.exporting-x/a.yaml")
    assert not _is_temporary("exporting/yolov4.onnx")
