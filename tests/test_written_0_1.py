"""What version 0.1 wrote is read: checkpoint, ONNX, MINDIR, and a run that goes on (tests/fixtures/written_0_1)."""

import re
import shutil
from dataclasses import astuple

import mindspore as ms
import numpy as np
import pytest

from src.config import load_config
from src.detect.backends import open_model
from src.report.history import read_history
from src.runtime.device import Runtime
from src.train.run import start_run
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint

RUN = "runs/2026-11-24_time_17_47_22"


@pytest.fixture(scope="module")
def written(fixtures):
    return fixtures / "written_0_1"


@pytest.mark.parametrize("name", [f"{RUN}/ckpt_0/0-2_6.ckpt", "net.onnx", "net.mindir"])
def test_a_model_gives_the_maps_that_its_writer_gave(written, name):
    """A checkpoint with the options of its run; an export alone knows its own."""
    ms.set_context(mode=ms.GRAPH_MODE)
    words = [f"--config_path={written / RUN / 'config.yaml'}"] if name.endswith("ckpt") else []
    backend, config = open_model(
        load_config([*words, "--device_target=CPU", f"--pretrained={written / name}"])
    )
    assert config.labels == ["ship", "plane"] and config.eval_input_hw == (64, 64)
    expected = np.load(written / "maps.npz")
    for found, size in zip(backend.predict(expected["images"]), ("large", "medium", "small"), strict=True):
        np.testing.assert_allclose(found, expected[size], rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_with_its_weights_moments_and_table(written, tiles, tmp_path):
    """By its own config.yaml, whose options have the names and words of then; one epoch more."""
    shutil.copytree(written / "runs", tmp_path / "runs")
    words = [f"--config_path={tmp_path / RUN / 'config.yaml'}", f"--resume={tmp_path / RUN}", "--max_epoch=3"]
    places = [f"--data_dir={tiles}", f"--ckpt_path={tmp_path / 'runs'}", f"--log_path={tmp_path / 'runs'}"]
    started = start_run(load_config([*words, *places]), Runtime())
    values, state = read_checkpoint(written / RUN / "ckpt_0" / "0-2_6.ckpt")
    loaded = {
        parameter.name: parameter.asnumpy() for parameter in started.parts.step.train_step.get_parameters()
    }
    moments = [name for name in values if name.startswith("moments.")]
    assert len(moments) > 200 and any(np.any(values[name]) for name in moments)
    for name in [*moments, *(name for name in values if name.startswith("feature_map."))]:
        assert np.array_equal(values[name], loaded[name]), name
    assert (started.state.step, started.state.best_epoch) == (state["step"], state["best_epoch"]) == (6, 1)
    fit(started)
    log = next(started.folder.path.glob("*.log")).read_text()
    assert re.findall(r"epoch\[(\d)\], iter\[(\d)\]", log) == [("2", "6"), ("2", "7"), ("3", "8")]
    earlier = (written / RUN / "results.csv").read_text().splitlines()[1:]
    rows = read_history(started.folder.path / "results.csv")
    assert [(row.epoch, row.step) for row in rows] == [(1, 3), (2, 6), (3, 9)]
    for row, line in zip(rows, earlier):
        assert list(astuple(row)) == [float(value) for value in line.split(",")]
