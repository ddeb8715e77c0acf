"""The compiled training step on disk: the same run from it, and never another's graph."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.train.compile_cache import CompileCache, graph_digest
from src.weights.checkpoint import read_checkpoint
from tests import ROOT
from tests.tiny import OPTIONS, tiny_config


def run(tiles: Path, out: Path, *words: str) -> dict[str, np.ndarray]:
    """Weights after two steps of train.py: MindSpore takes one cache folder a process."""
    words = [*OPTIONS, f"--data_dir={tiles}", f"--ckpt_path={out}", "--max_steps=2", *words]
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (checkpoint,) = out.glob("*/ckpt_0/*.ckpt")
    return read_checkpoint(checkpoint)[0]


def stored(cache: Path) -> dict[str, int]:
    """Files of the cache and when they were written."""
    return {
        str(path.relative_to(cache)): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_a_run_from_the_cache_ends_with_the_same_weights(tiles, tmp_path):
    cache = tmp_path / "cache"
    plain = run(tiles, tmp_path / "a")
    first = run(tiles, tmp_path / "b", f"--compile_cache={cache}")
    written = stored(cache)
    assert any(name.endswith(".mindir") for name in written)
    # The weights are not of the graph: from another start, the cached step goes on from there.
    start = f"--pretrained_checkpoint={next((tmp_path / 'a').glob('*/ckpt_0/*.ckpt'))}"
    plain_second = run(tiles, tmp_path / "d", start)
    second = run(tiles, tmp_path / "c", start, f"--compile_cache={cache}")
    assert stored(cache).keys() == written.keys()
    assert {name: time for name, time in stored(cache).items() if name.endswith(".mindir")} == {
        name: time for name, time in written.items() if name.endswith(".mindir")
    }  # read, not written again
    for name, value in plain.items():
        np.testing.assert_array_equal(value, first[name])
        np.testing.assert_array_equal(plain_second[name], second[name])
    assert any((plain[name] != plain_second[name]).any() for name in plain)
    assert not list(cache.glob(".compiling-*"))


def test_every_option_of_the_graph_has_a_folder_of_its_own(tiles, tmp_path):
    base = tiny_config(tiles, tmp_path)
    digests = {graph_digest(base, [[2, 3, 96, 96]]), graph_digest(base, [[2, 3, 128, 128]])}
    for word in (
        "--ignore_threshold=0.5", "--lr=0.02", "--momentum=0.8", "--box_loss=ciou", "--seed=7", "--clip_norm=1",
        "--ema_decay=0.9", "--ms_amp_level=O1", "--freeze=feature_map.backbone", "--labels=ship,car",
    ):  # fmt: skip
        digests.add(graph_digest(tiny_config(tiles, tmp_path, word), [[2, 3, 96, 96]]))
    assert len(digests) == 12
    elsewhere = tiny_config(tiles, tmp_path / "other", "--log_interval=7", "--output_path=o", "--train_url=b")
    assert graph_digest(elsewhere, [[2, 3, 96, 96]]) in digests


def test_a_changed_source_file_changes_the_digest(tiles, tmp_path, monkeypatch):
    config = tiny_config(tiles, tmp_path)
    before = graph_digest(config, [])
    read = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "loss.py" else b"")
    )
    assert graph_digest(config, []) != before


def test_a_folder_that_cannot_be_made_is_one_line(tiles, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"compile_cache: .*file"):
        CompileCache(tmp_path / "file", tiny_config(tiles, tmp_path), [])
