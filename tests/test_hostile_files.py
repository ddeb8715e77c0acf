"""Every reader fed with damaged files by the fuzzer, in short, and the table of attacks.

What the fuzzers found is kept as small cases in `test_hostile_*.py` (`tests/fuzz/run.py`, `tests/fuzz/by_coverage.py`).
`docs/security.md` lists which test stands for which attack.
"""

import re
import subprocess
import sys
import time

import pytest

from src.base.errors import UserError
from src.report.history import read_history
from tests import ROOT


@pytest.mark.parametrize("text", ["epoch,step\n1,2\n", "x" * 5000, "\x00", '"' * 999, ",".join("a" * 2000)])
def test_a_table_of_epochs_that_is_none(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match="not a table of epochs") as caught:
        read_history(tmp_path / "results.csv")
    assert len(str(caught.value)) < 400


def test_three_hundred_hostile_files(tmp_path):
    """`python -m tests.fuzz.run` feeds 5,000, these and MindSpore's formats; here the quick ones."""
    formats = (
        "coco,check_dataset,dota,voc,yolo,data_yaml,settings,rank_table,results,png,jpeg,bmp,tiff,gif,zip"
    )
    words = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        "--count=300",
        f"--formats={formats}",
        f"--keep={tmp_path}",
        "--seed=7",
    ]
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inputs, read, refused, failed = map(
        int, re.search(r"^together\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", done.stdout, re.M).groups()
    )
    assert inputs >= 290 and failed == 0 and read + refused == inputs and min(read, refused) > 20
    assert time.monotonic() - started < 300


def test_every_test_that_the_table_of_attacks_names_is_there():
    table = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    names = set(re.findall(r"\b(test_\w+)\b(?!\.py)", table))
    assert len(names) > 20
    assert {name for name in names if f"def {name}(" not in written} == set()
