"""results.csv: what is read is what was written; epochs are not doubled; damage is named; a kill leaves it whole."""

import csv
import math
import multiprocessing
import time
from dataclasses import astuple

import pytest

from src.base.errors import UserError
from src.report.history import COLUMNS, EpochRow, read_history, with_row, write_history


def row(epoch, ap=math.nan):
    return EpochRow(epoch, 3 * epoch, 10 / epoch, 5.5, 3.25, 1.125, 1e-3 / epoch, ap, ap, 8.5, 12.25)


def equal(first, second):
    return all(a == b or (a != a and b != b) for a, b in zip(astuple(first), astuple(second)))


def test_rows_come_back(tmp_path):
    rows = [row(1), row(2, 0.25)]
    write_history(tmp_path / "results.csv", rows)
    found = read_history(tmp_path / "results.csv")
    assert len(found) == 2 and all(map(equal, rows, found))
    with (tmp_path / "results.csv").open() as handle:
        lines = list(csv.DictReader(handle))
    assert tuple(lines[0]) == COLUMNS and "class" in COLUMNS
    assert lines[0]["ap"] == "" and lines[1]["ap50"] == "0.25" and lines[1]["epoch"] == "2"


def test_an_epoch_that_is_trained_again_replaces_its_row():
    rows = with_row(with_row(with_row([], row(2)), row(1)), row(2, 0.5))
    assert [each.epoch for each in rows] == [1, 2] and rows[1].ap == 0.5


@pytest.mark.parametrize(
    "text", ["", "epoch,step\n1,2\n", ",".join(COLUMNS) + "\n1,2,3\n", ",".join(COLUMNS) + "\nx" + ",1" * 10]
)
def test_a_damaged_table_is_named(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match=r"results\.csv: not a table of epochs"):
        read_history(tmp_path / "results.csv")
    assert read_history(tmp_path / "none.csv") == []


def _write_forever(path):
    rows = []
    for epoch in range(1, 10**6):
        rows = with_row(rows[-300:], row(epoch, 0.5))
        write_history(path, rows)


def test_a_kill_leaves_whole_rows(tmp_path):
    path = tmp_path / "results.csv"
    for _ in range(6):
        process = multiprocessing.get_context("fork").Process(target=_write_forever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.005)
        time.sleep(0.06)
        process.kill()
        process.join()
        epochs = [each.epoch for each in read_history(path)]
        assert epochs and epochs == list(range(epochs[0], epochs[-1] + 1))
        assert path.read_text().endswith("\n")
