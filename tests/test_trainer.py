"""Whole training runs of a tiny network: log, checkpoints, exact resume, evaluation, and the errors."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.config import load_config
from src.initializer import initialize
from src.report.history import read_history
from src.runtime.device import Runtime
from src.train.run import start_run
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.yolo import build_network
from tests import ROOT
from tests.tiny import OPTIONS, options_of, tiny_config, train

STEP_LINE = re.compile(
    r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}:INFO:epoch\[(\d+)\], iter\[(\d+)\], loss:(\d+\.\d{6}), "
    r"per step time: \d+\.\d\d ms, fps: \d+\.\d\d, lr:([\d.e-]+)$",
    re.M,
)


def run(config):
    """(folder of the run, its log lines)."""
    started = start_run(config, Runtime())
    fit(started)
    return started.folder.path, next(iter(started.folder.path.glob("*.log"))).read_text()


@pytest.fixture(scope="module")
def finished(compile_cache, tiles, tmp_path_factory):
    """Two epochs of three steps, a checkpoint each step, evaluated after each epoch."""
    words = ("--ckpt_interval=1", "--keep_checkpoint_max=4", "--run_eval=1", "--eval_start_epoch=1")
    return train(compile_cache, tiles, tmp_path_factory.mktemp("out"), *words)


def test_a_log_interval_of_an_epoch(compile_cache, tiles, tmp_path):
    _, log = train(compile_cache, tiles, tmp_path, "--log_interval=-1", "--max_epoch=2")
    assert [(epoch, step) for epoch, step, *_ in STEP_LINE.findall(log)] == [("1", "2"), ("2", "5")]


def losses(log):
    return [match[2] for match in STEP_LINE.findall(log)]


def weights(path):
    return read_checkpoint(path)[0]


def test_log_has_the_published_lines(finished):
    folder, log = finished
    found = STEP_LINE.findall(log)
    assert [int(iteration) for _, iteration, _, _ in found] == list(range(6))
    assert [int(epoch) for epoch, *_ in found] == [0, 0, 1, 1, 1, 2]
    parts = re.findall(r"loss parts: box ([\d.]+), objectness ([\d.]+), class ([\d.]+)", log)
    for (_, _, total, _), values in zip(found, parts):
        assert sum(map(float, values)) == pytest.approx(float(total), rel=1e-4)
    for words in (
        "epoch: 1, mAP:",
        "update best result: ",
        "End training, the best mAP is: ",
        "=end training=",
    ):
        assert words in log
    assert len(re.findall(r"^ Average Precision  \(AP\) @\[ IoU=0\.50:0\.95 \| area=   all", log, re.M)) == 2
    assert load_config([f"--config_path={folder / 'config.yaml'}"]).max_epoch == 2


def test_newest_checkpoints_and_the_best_are_kept(finished):
    folder, _ = finished
    names = sorted(path.name for path in (folder / "ckpt_0").iterdir())
    assert names == ["0-1_3.ckpt", "0-2_4.ckpt", "0-2_5.ckpt", "0-2_6.ckpt", "best_map.ckpt"]
    _, state = read_checkpoint(folder / "ckpt_0" / "0-2_6.ckpt")
    assert state["step"] == 6 and state["best_epoch"] in (1, 2)


def test_resumed_run_equals_the_uninterrupted_one(finished, compile_cache, tiles, tmp_path):
    folder, log = finished
    start = folder / "ckpt_0" / "0-2_4.ckpt"
    resumed, resumed_log = train(compile_cache, tiles, tmp_path, f"--resume_yolov4={start}")
    assert losses(resumed_log) == losses(log)[4:]
    expected, found = weights(folder / "ckpt_0" / "0-2_6.ckpt"), weights(resumed / "ckpt_0" / "0-2_6.ckpt")
    assert set(expected) == set(found)
    for name, value in expected.items():
        assert np.array_equal(value, found[name]), name


def test_results_are_those_of_the_log(finished):
    folder, log = finished
    rows = read_history(folder / "results.csv")
    assert [(row.epoch, row.step) for row in rows] == [(1, 3), (2, 6)]
    found = STEP_LINE.findall(log)
    parts = re.findall(r"loss parts: box ([\d.]+), objectness ([\d.]+), class ([\d.]+)", log)
    first_lines = re.findall(r"\| area=   all \| maxDets=100 \] = (\S+)", log)
    for number, row in enumerate(rows):
        steps = slice(3 * number, 3 * number + 3)
        assert row.loss == pytest.approx(np.mean([float(total) for _, _, total, _ in found[steps]]))
        mean_parts = np.mean(np.array(parts[steps], float), axis=0)
        assert (row.box, row.objectness, row.class_loss) == pytest.approx(mean_parts.tolist(), rel=1e-4)
        assert row.lr == pytest.approx(float(found[steps][-1][3]))
        # AP, AP at 0.5, and AR at 100 stand on lines of this form.
        assert row.ap == pytest.approx(float(first_lines[4 * number]), abs=5e-4)
        assert row.pictures_per_second == pytest.approx(6 / row.seconds, rel=1e-6)
    assert f"report: {folder / 'report.html'}" in log
    page = (folder / "report.html").read_text()
    assert "<b>2 of 2</b>" in page and 'data-reload="0"' in page and 'id="pictures"' in page


def test_a_resumed_run_goes_on_with_the_results(finished, compile_cache, tiles, tmp_path):
    """From the middle of epoch 2: its row is of all its steps, and no epoch is there twice."""
    folder, _ = finished
    start = folder / "ckpt_0" / "0-2_4.ckpt"
    has_events = importlib.util.find_spec("tensorboardX") is not None
    words = [f"--resume_yolov4={start}", f"--tensorboard={int(has_events)}"]
    resumed, _ = train(compile_cache, tiles, tmp_path, *words)
    assert len(list(resumed.glob("tensorboard/events.*"))) == has_events
    whole, found = (read_history(place / "results.csv") for place in (folder, resumed))
    assert found[0] == whole[0] and [row.epoch for row in found] == [1, 2]
    for name in ("step", "loss", "box", "objectness", "class_loss", "lr"):
        assert getattr(found[1], name) == pytest.approx(getattr(whole[1], name), rel=1e-8), name
    assert found[1].ap != found[1].ap  # not evaluated


def test_resume_with_adam_is_exact_too(compile_cache, tiles, tmp_path):
    words = ["--optimizer=adam", "--head_prior=0.01", "--lr=0.001", "--ckpt_interval=1", "--max_steps=4"]
    folder, log = train(compile_cache, tiles, tmp_path / "whole", *words)
    words.append(f"--resume_yolov4={folder / 'ckpt_0' / '0-1_2.ckpt'}")
    resumed, resumed_log = train(compile_cache, tiles, tmp_path / "b", *words)
    assert losses(resumed_log) == losses(log)[2:]
    expected, found = (weights(place / "ckpt_0" / "0-2_4.ckpt") for place in (folder, resumed))
    assert all(np.array_equal(value, found[name]) for name, value in expected.items())


def test_same_seed_same_losses_other_seed_others(finished, compile_cache, tiles, tmp_path):
    _, log = finished
    _, again = train(compile_cache, tiles, tmp_path, "--max_steps=3")
    assert losses(again) == losses(log)[:3]
    _, other = train(compile_cache, tiles, tmp_path / "b", "--max_steps=3", "--seed=2")
    assert losses(other) != losses(again)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(tiles, tmp_path):
    config = tiny_config(tiles, tmp_path, "--lr=1e18", "--warmup_epochs=0")
    with pytest.raises(UserError) as caught:
        run(config)
    assert re.search(
        r"the loss is (nan|inf) at epoch \d, step \d, images: .*train/\d\.png", str(caught.value)
    )
    last = max(
        (path for path in tmp_path.rglob("*.ckpt")), default=None, key=lambda path: path.stat().st_mtime
    )
    assert last is None or np.isfinite(weights(last)["feature_map.conv1.0.weight"]).all()


def test_starting_weights_transfer_to_other_classes(finished, tiles, tmp_path):
    folder, _ = finished
    start = folder / "ckpt_0" / "0-2_6.ckpt"
    config = tiny_config(
        tiles, tmp_path, f"--pretrained_checkpoint={start}", "--transfer_train=1", "--max_steps=1"
    )
    started = start_run(config, Runtime())
    own, theirs = started.parts.network, weights(start)
    assert np.array_equal(own.feature_map.conv1[0].weight.asnumpy(), theirs["feature_map.conv1.0.weight"])
    head = "feature_map.backblock1.conv6.weight"
    assert not np.array_equal(own.feature_map.backblock1.conv6.weight.asnumpy(), theirs[head])


def start_train(*words):
    return subprocess.run(
        [sys.executable, ROOT / "train.py", *words], capture_output=True, text=True, check=False, timeout=300
    )


def test_ascend_without_its_runtime_is_one_line():
    done = start_train("--data_dir=x", "--device_target", "Ascend")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "device_target" in line and "--device_target CPU" in line
    assert "Traceback" not in done.stderr


def test_missing_data_is_one_line(tmp_path):
    done = start_train(*OPTIONS, f"--data_dir={tmp_path / 'none'}", f"--ckpt_path={tmp_path}")
    assert done.returncode == 2
    assert f"data_dir: {tmp_path / 'none'} is no folder" in done.stderr and "Traceback" not in done.stderr


def test_eval_py_scores_a_checkpoint_and_draws_it(finished, tiles, tmp_path):
    folder, log = finished
    checkpoint = folder / "ckpt_0" / "best_map.ckpt"
    words = [
        *options_of("eval"),
        f"--data_dir={tiles}",
        f"--pretrained={checkpoint}",
        f"--log_path={tmp_path}",
        "--result_view=1",
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "eval.py", *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "=============coco eval reulst=========" in done.stdout
    assert re.search(r"testing cost time \d+\.\d\dh$", done.stdout, re.M)
    best = re.search(r"End training, the best mAP is: (\S+),", log)[1]
    first = re.search(
        r"Average Precision  \(AP\) @\[ IoU=0\.50:0\.95 \| area=   all \| maxDets=100 \] = (\S+)", done.stdout
    )
    assert float(first[1]) == pytest.approx(float(best), abs=5e-4)
    (results,) = tmp_path.iterdir()
    assert len(list((results / "pictures").glob("*.jpg"))) == 3
    assert len(list(results.glob("predict_*.json"))) == 1
    page = (results / "report.html").read_text()
    assert f"<b>{float(first[1]):.3f}</b><small>AP</small>" in page and page.count("<figure") == 3


def test_profiler_writes_a_profile(compile_cache, tiles, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [*OPTIONS, f"--data_dir={tiles}", f"--ckpt_path={tmp_path}", "--need_profiler=1"]
    words.append(f"--compile_cache={compile_cache}")
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *words],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    profile = next(iter(tmp_path.glob("*/profiler")))
    assert sum(path.stat().st_size for path in profile.rglob("*") if path.is_file()) > 1000


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A checkpoint of starting weights: it finds something everywhere."""
    config = load_config(OPTIONS)
    network = build_network(config)
    initialize(network, 3)
    path = tmp_path_factory.mktemp("untrained") / "start.ckpt"
    save_checkpoint(network, path)
    return path


def run_script(name, *words):
    done = subprocess.run(
        [sys.executable, ROOT / name, *options_of(Path(name).stem), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout


def detections_in(folder):
    return json.loads(next(iter(folder.glob("*/predict_*.json"))).read_text())


def test_test_py_needs_no_annotations(untrained, tiles, tmp_path):
    """A folder of images with any names: detections by id, and which image an id means."""
    (tmp_path / "set" / "test").mkdir(parents=True)
    for number, name in ((1, "harbour b.png"), (2, "a.png")):
        (tmp_path / "set" / "test" / name).write_bytes((tiles / "val" / f"{number}.png").read_bytes())
    out = tmp_path / "out"
    printed = run_script(
        "test.py", f"--data_dir={tmp_path / 'set'}", f"--pretrained={untrained}", f"--log_path={out}"
    )
    assert "no annotations: no AP" in printed and "coco eval" not in printed
    names = json.loads(next(iter(out.glob("*/images.json"))).read_text())
    assert {key: Path(value).name for key, value in names.items()} == {"1": "a.png", "2": "harbour b.png"}
    found = detections_in(out)
    assert {entry["image_id"] for entry in found} == {1, 2}
    assert {entry["category_id"] for entry in found} <= {1, 2}


def test_test_py_scores_an_annotated_set_as_eval_py_does(untrained, tiles, tmp_path):
    """The other system's form, on the validation set as test set."""
    shutil.copytree(tiles / "val", tmp_path / "set" / "test")
    (tmp_path / "set" / "annotations").mkdir()
    shutil.copy(tiles / "annotations" / "val.json", tmp_path / "set" / "annotations" / "test.json")
    printed = run_script(
        "test.py", "--config", ROOT / "configs" / "dota_yolov4.yaml", "--weight", untrained,
        f"--data_dir={tmp_path / 'set'}", f"--log_path={tmp_path / 'test'}", "--iou_thres", "0.55",
    )  # fmt: skip
    scored = run_script(
        "eval.py",
        f"--pretrained={untrained}",
        f"--data_dir={tiles}",
        f"--log_path={tmp_path / 'eval'}",
        "--nms_thresh=0.55",
    )
    found = detections_in(tmp_path / "test")
    assert len(found) > 50 and found == detections_in(tmp_path / "eval")
    report = re.compile(r"^ Average .*", re.M)
    assert len(report.findall(printed)) == 12 and report.findall(printed) == report.findall(scored)
