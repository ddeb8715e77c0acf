"""One line and exit code 2 where a system has no home folder, no standard output, a bad disk or no such long name."""

import errno
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from src.base.errors import UserError, reports_mistakes
from src.config import load_config
from src.data_loader import naming_image
from src.logger import progress_bar
from src.remote.download import default_folder
from src.train.compile_cache import CompileCache
from tests import ROOT


@pytest.fixture
def homeless(monkeypatch):
    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_an_unknown_user_without_home_is_told_what_to_set(homeless):
    with pytest.raises(UserError, match="download_path: this user has no home folder"):
        default_folder()
    with pytest.raises(UserError, match="compile_cache: ~/cache: this user has no home folder"):
        CompileCache(Path("~/cache"), load_config([]), [])


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EIO, errno.EPIPE])
def test_what_a_disk_or_a_reader_refuses_is_one_line(number, capsys):
    @reports_mistakes
    def main():
        raise OSError(number, "refused", "a/place")

    assert main() == 2
    assert capsys.readouterr().err.startswith("error: a/place: cannot be ")


def test_an_overlong_path_is_one_line():
    words = ["--device_target=CPU", f"--img_path={'x' * 300}.png", "--model=none.onnx"]
    done = subprocess.run(
        [sys.executable, "inference.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "too long" in done.stderr


def test_an_image_that_the_disk_does_not_give_is_named():
    named = pytest.raises(UserError, match=r"set/7\.png: cannot be read \(Input/output error\)")
    with named, naming_image("set/7.png"):
        raise OSError(errno.EIO, "Input/output error")


def test_a_closed_standard_output_has_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert progress_bar(3, "train", "step").disable
