"""Hostile words: shells, keys and signatures, and what a message shows of them."""

import json
import subprocess
import sys

import pytest

from src.base.errors import UserError, reports_mistakes
from src.config import load_config
from src.datasets.formats.coco_writer import labels_option
from src.remote.download import without_signature
from src.runtime.device import Runtime
from src.train.run import start_run
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests import ROOT
from tests.tiny import tiny_config, write_tiles

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    "word",
    ["; touch mark", "$(touch mark)", "`touch mark`", "a && touch mark", "| touch mark", "\ntouch mark"],
)
@pytest.mark.parametrize(
    "script", ["run_standalone_train.sh", "run_eval.sh", "run_test.sh", "run_infer_310.sh"]
)
def test_words_of_a_script_are_not_run(tmp_path, script, word):
    words = ["bash", str(ROOT / "scripts" / script), word, word, word, word]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert not list(tmp_path.rglob("mark")) and not (ROOT / "mark").exists()


@pytest.mark.parametrize(
    "names",
    [
        ("a'; touch mark; '", "b"),
        ('"$(touch mark)"', "`touch mark`"),
        ("x\\", "-y"),
        ("a,b", "[c]"),
        ("#", "null"),
    ],
)
def test_the_line_to_copy_is_safe_in_a_shell_and_means_the_classes(tmp_path, names):
    """`convert_to_coco` prints a line to copy; what a label file calls a class must not run in it."""
    line = labels_option(names)
    show = f"{sys.executable} -c 'import sys, json; print(json.dumps(sys.argv[1:]))' {line}"
    done = subprocess.run(["bash", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True)
    (word,) = json.loads(done.stdout)
    assert tuple(load_config([word]).labels) == names
    assert not (tmp_path / "mark").exists()


def test_keys_and_signatures_of_a_run_are_in_none_of_its_files(tmp_path, monkeypatch, capfd):
    """AK and SK of the environment and the signature of an address, in the log, config.yaml, report, checkpoint."""
    from tests.file_server import Behaviour, file_server

    for name in ("AWS_SECRET_ACCESS_KEY", "OBS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    path = tmp_path / "net.ckpt"
    state = {"step": 3, "steps_per_epoch": 3, "best_map": -1.0, "best_epoch": 0}
    save_checkpoint(build_network(tiny_config(tmp_path, tmp_path)), path, state)
    tiles = write_tiles(tmp_path / "tiles")
    with file_server(Behaviour(path.read_bytes())) as url:
        words = [
            f"--pretrained_checkpoint={url}/net.ckpt?Signature={SECRET}",
            f"--download_path={tmp_path / 'cache'}",
        ]
        started = start_run(tiny_config(tiles, tmp_path / "out", *words), Runtime())
    started.save()
    shown = capfd.readouterr()
    assert "download" in shown.out and SECRET not in shown.out + shown.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"config.yaml", "report.html"} <= {path.name for path in files} and len(files) >= 4
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    kept = load_config([f"--config_path={started.folder.path / 'config.yaml'}"]).pretrained_checkpoint
    assert kept == f"{url}/net.ckpt"


def test_addresses_without_their_signature():
    value = "https://AK:SK@host/a/net.ckpt?X-Amz-Signature=ab#sha256=" + "0" * 64
    assert without_signature(value) == "https://host/a/net.ckpt#sha256=" + "0" * 64
    assert without_signature("a/b?c.ckpt") == "a/b?c.ckpt" and without_signature(3) == 3


def test_messages_are_one_printable_line():
    error = UserError("a\nb\x1b[31m" + "x" * 5000)
    assert str(error).isprintable() and len(str(error)) < 1300 and str(error).startswith("a\\nb\\x1b[31m")


def test_an_unforeseen_full_disk_is_a_line_too(capsys):
    @reports_mistakes
    def program():
        raise OSError(28, "No space left on device", "/data/out")

    assert program() == 2
    assert (
        capsys.readouterr().err
        == "error: /data/out: cannot be written (No space left on device); free disk space there\n"
    )
