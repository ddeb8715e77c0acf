"""The commands around an exported model: run_infer_310.sh, eval.py on a MINDIR, test.py with DOTA's Task 2."""

import json
import os
import re
import subprocess
import sys
import zipfile

import mindspore as ms
import numpy as np
import pytest

from src.datasets.dota_labels import DotaObject, write_labels
from src.export.export import export_model
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests import ROOT
from tests.tiny import tiny_config, write_tiles


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """Tiles, and a tiny network as a checkpoint and a MINDIR."""
    ms.set_context(mode=ms.GRAPH_MODE)
    folder = tmp_path_factory.mktemp("deployed")
    write_tiles(folder / "tiles", train=1, val=5)
    config = tiny_config(folder / "tiles", folder)
    save_checkpoint(build_network(config), folder / "tiny.ckpt")
    export_model(
        config.replace(ckpt_file=str(folder / "tiny.ckpt"), file_name=str(folder / "tiny"), batch_size=2)
    )
    return folder


def run(*command, cwd, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def ap_lines(text):
    return re.findall(r"Average (?:Precision|Recall).*", text)


@pytest.mark.parametrize("device", [["0"], []])
def test_run_infer_310_as_published(deployed, tmp_path, device):
    """MINDIR_PATH DATA_PATH [DEVICE_ID] ANN_FILE; the same AP as eval.py on the checkpoint."""
    annotations = deployed / "tiles" / "annotations" / "val.json"
    script = ROOT / "scripts" / "run_infer_310.sh"
    done = run(
        "bash", script, deployed / "tiny.mindir", deployed / "tiles" / "val", *device, annotations,
        cwd=tmp_path, PYTHON=sys.executable,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "running on the CPU" in done.stdout and len(ap_lines(done.stdout)) == 12
    assert re.search(r"NN inference cost average time: \d+\.\d{3} ms of infer_count 5", done.stdout)
    assert len(list((tmp_path / "infer_310").rglob("predict_*.json"))) == 1
    if device:
        by_checkpoint = run(
            sys.executable, ROOT / "eval.py", f"--pretrained={deployed / 'tiny.ckpt'}", "--device_target=CPU",
            f"--data_dir={deployed / 'tiles'}", f"--log_path={tmp_path}/eval", "--labels=ship,plane",
            "--backbone_input_shape=4,8,8,16,16", "--backbone_shape=8,8,16,16,32", "--backbone_layers=1,1,1,1,1",
            "--testing_shape=96", cwd=ROOT,
        )  # fmt: skip
        assert ap_lines(by_checkpoint.stdout) == ap_lines(done.stdout)


def test_run_infer_310_runs_on_the_card_that_it_is_given(deployed, tmp_path):
    """The third word reaches MindSpore Lite, here one that says what it was asked and stops."""
    (tmp_path / "mindspore_lite.py").write_text(
        "class ModelType:\n    MINDIR = 0\n\n"
        "class Context:\n    class ascend:\n        pass\n\n"
        "class Model:\n    def build_from_file(self, path, kind, context):\n"
        "        raise RuntimeError(f'{context.target} {context.ascend.device_id} {context.ascend.precision_mode}')\n"
    )
    done = run(
        "bash", ROOT / "scripts" / "run_infer_310.sh", deployed / "tiny.mindir", deployed / "tiles" / "val", "3",
        deployed / "tiles" / "annotations" / "val.json",
        cwd=tmp_path, PYTHON=sys.executable, PYTHONPATH=str(tmp_path), DEVICE_TARGET="Ascend",
    )  # fmt: skip
    assert done.returncode != 0 and "cannot build it (['ascend'] 3 preferred_fp32)" in done.stdout


def test_wrong_arguments_of_run_infer_310(deployed, tmp_path):
    script = ROOT / "scripts" / "run_infer_310.sh"
    model, data = deployed / "tiny.mindir", deployed / "tiles"
    for words, named in (
        ([model, data], "usage: bash run_infer_310.sh"),
        (["/no.mindir", data, "0", data], "MINDIR_PATH: no such file"),
        ([model, data, "0", "/no.json"], "ANN_FILE: no such file"),
    ):
        done = run("bash", script, *words, cwd=tmp_path, PYTHON=sys.executable)
        assert done.returncode == 2 and named in done.stderr


def test_test_py_as_the_other_system_has_it(deployed, tmp_path):
    """`--config --weight --iou_thres`: without a test set the validation set, and its AP."""
    (tmp_path / "net.yaml").write_text(
        json.dumps({"data_dir": str(deployed / "tiles"), "log_path": str(tmp_path)})
    )
    done = run(
        sys.executable, "test.py", "--config", tmp_path / "net.yaml", "--device_target", "CPU", "--iou_thres", "0.6",
        "--weight", deployed / "tiny.mindir", cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no test set, the validation set is taken" in done.stdout and len(ap_lines(done.stdout)) == 12


def test_test_py_writes_and_scores_dotas_task_2(deployed, tmp_path):
    """Tiles named as split_dota.py names them, without annotations: merged to one scene, zipped and scored."""
    (tmp_path / "test").mkdir()
    for number, (x, y) in enumerate([(0, 0), (100, 0), (0, 80), (100, 80)], start=1):
        source = deployed / "tiles" / "val" / f"{number}.png"
        (tmp_path / "test" / f"P7__x{x}__y{y}.png").write_bytes(source.read_bytes())
    (tmp_path / "labelTxt").mkdir()
    square = [[10, 10], [60, 10], [60, 60], [10, 60]]
    write_labels(tmp_path / "labelTxt" / "P7.txt", [DotaObject(np.array(square), "ship", False)])
    done = run(
        sys.executable, "test.py", f"--pretrained={deployed / 'tiny.mindir'}", "--device_target=CPU",
        f"--data_dir={tmp_path}", f"--log_path={tmp_path}/out", f"--label_dir={tmp_path / 'labelTxt'}", cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "DOTA Task 2, AP at IoU 0.5 of scenes" in done.stdout
    (archive,) = (tmp_path / "out").rglob("Task2.zip")
    with zipfile.ZipFile(archive) as files:
        assert files.namelist() == ["Task2_ship.txt", "Task2_plane.txt"]
        lines = [line.split() for name in files.namelist() for line in files.read(name).decode().splitlines()]
    assert lines and {line[0] for line in lines} == {"P7"}
    assert max(float(line[4]) for line in lines) <= 250 and max(float(line[5]) for line in lines) <= 200
    assert max(float(line[4]) for line in lines) > 150  # in the scene's pixels, not in a tile's
    (images,) = (tmp_path / "out").rglob("images.json")
    assert len(json.loads(images.read_text())) == 4
