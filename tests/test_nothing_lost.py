"""What a training keeps through damaged checkpoints, weights that are no numbers, other options and bad images."""

import json
import os
import shutil
import signal

import cv2
import mindspore as ms
import numpy as np
import pytest

from src.base.errors import UserError
from src.detect.backends import open_model
from src.runtime.device import Runtime
from src.runtime.stop_request import StopRequest
from src.train import trainer
from src.train.run import start_run
from src.train.run_folder import RunFolder, last_checkpoints
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint, save_checkpoint, time_of
from tests.tiny import tiny_config

STATE = {"step": 0, "steps_per_epoch": 3, "best_map": -1.0, "best_epoch": 0, "updates": 0}
WORDS = ("--max_epoch=1", "--run_eval=1", "--eval_start_epoch=1")


def log_of(run):
    return next(run.folder.path.glob("*.log")).read_text()


@pytest.fixture(scope="module")
def earlier(tiles, tmp_path_factory):
    """A run of one epoch, evaluated; it has its best checkpoint."""
    run = start_run(
        tiny_config(tiles, tmp_path_factory.mktemp("earlier"), *WORDS, "--ckpt_interval=1"), Runtime()
    )
    fit(run)
    return run


def copy_of(earlier, out):
    """The earlier run in a folder of its own."""
    return shutil.copytree(earlier.folder.path, out / earlier.folder.path.name)


# -------------------------------------------------------------------- weights that are no numbers


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_saved_and_nothing_is_pruned(earlier, tmp_path, value):
    folder = RunFolder(copy_of(earlier, tmp_path))
    there = sorted(folder.checkpoints.iterdir())
    weight = ms.Parameter(np.array([1, value], np.float32), name="conv.weight")
    with pytest.raises(
        UserError, match=r"0-9_99.ckpt: not written: conv.weight holds values that are not finite"
    ):
        save_checkpoint([weight], folder.step_checkpoint(9, 99), STATE)
    assert sorted(folder.checkpoints.iterdir()) == there


def test_a_run_stops_where_its_weights_are_not_finite(tiles, tmp_path):
    """The loss of the last step is of the weights before it, so the loss alone does not tell."""
    run = start_run(tiny_config(tiles, tmp_path, "--ckpt_interval=1", "--keep_checkpoint_max=1"), Runtime())
    step = run.parts.step

    class Spoiling:
        def __call__(self, batch, number):
            loss = step(batch, number)
            if number == 1:
                weight = run.state.weights[0]
                weight.set_data(ms.Tensor(np.full(weight.shape, np.nan, np.float32)))
            return loss

    object.__setattr__(run.parts, "step", Spoiling())
    with pytest.raises(UserError, match="not finite"):
        fit(run)
    assert [path.name for path in run.folder.checkpoints.iterdir()] == ["0-1_1.ckpt"]
    read_checkpoint(run.folder.checkpoints / "0-1_1.ckpt")


# -------------------------------------------------------------------- --resume=auto


def test_auto_takes_the_newest_good_one_and_says_which_it_passed_by(earlier, tiles, tmp_path):
    folder = RunFolder(copy_of(earlier, tmp_path))
    newest = folder.step_checkpoint(1, 3)
    newest.write_bytes(newest.read_bytes()[:-1000])
    (folder.checkpoints / "0-1_x.ckpt").write_bytes(b"not ours")
    (folder.checkpoints / "9-9_copy_of_7.ckpt").write_bytes(b"not ours")
    os.utime(newest, (2**31, 2**31))  # it does not say when it was written, so its file's time counts
    run = start_run(tiny_config(tiles, tmp_path, *WORDS, "--resume=auto"), Runtime())
    assert run.state.step == 2
    assert f"passed by: {newest}: not a readable MindSpore checkpoint" in log_of(run)


def test_where_none_is_good_there_is_no_empty_folder(earlier, tiles, tmp_path):
    folder = RunFolder(copy_of(earlier, tmp_path))
    for path in folder.step_checkpoints():
        path.write_bytes(b"torn")
    for _ in range(2):
        with pytest.raises(UserError, match="not a readable MindSpore checkpoint"):
            start_run(tiny_config(tiles, tmp_path, "--resume=auto"), Runtime())
    assert list(tmp_path.iterdir()) == [folder.path]


def test_runs_are_in_the_order_of_their_own_times(tmp_path):
    """Not of their folders' names, in which a clock is set back in autumn, nor of copied files' times."""
    for name, moment in (
        ("2026-10-25_time_02_30_00", 100.0),
        ("2026-10-25_time_02_10_00", 200.5),
        ("mine", 50.0),
    ):
        path = RunFolder(tmp_path / name).step_checkpoint(1, 1)
        save_checkpoint(
            [ms.Parameter(np.zeros(70_000, np.float32), name="w")], path, {**STATE, "saved_at": moment}
        )
        assert time_of(path) == moment
        os.utime(path, (1000 - moment, 1000 - moment))
    found = [path.parent.parent.name for path in last_checkpoints("auto", tmp_path)]
    assert found == ["2026-10-25_time_02_10_00", "2026-10-25_time_02_30_00", "mine"]


# -------------------------------------------------------------------- other options than the checkpoint's


@pytest.mark.parametrize(
    "words,named",
    [
        (["--seed=7"], "seed: 7 "),
        (["--ema_decay=0.9"], "ema_decay: 0.9 "),
        (["--optimizer=adam"], "optimizer: adam "),
        (["--labels=boat,plane"], r"labels: \['boat', 'plane'\] "),
        (["--image_std=1,1,1"], "image_std: "),
        (["--scale_x_y=1,1,1"], "scale_x_y: "),
    ],
)
def test_resuming_with_other_options_is_refused_by_name(earlier, tiles, tmp_path, words, named):
    with pytest.raises(UserError, match=named + r".*was written with .*--override_checkpoint="):
        start_run(tiny_config(tiles, tmp_path, f"--resume={earlier.folder.path}", *words), Runtime())
    assert not list(tmp_path.iterdir())


def test_other_options_where_they_are_asked_for(earlier, tiles, tmp_path):
    words = ("--seed=7", "--override_checkpoint=seed", "--max_epoch=1")
    run = start_run(tiny_config(tiles, tmp_path, f"--resume={earlier.folder.path}", *words), Runtime())
    assert run.config.seed == 7 and run.state.step == 3
    with pytest.raises(UserError, match="override_checkpoint: colour is none of"):
        start_run(
            tiny_config(tiles, tmp_path, f"--resume={earlier.folder.path}", "--override_checkpoint=colour"),
            Runtime(),
        )


def test_options_that_nobody_set_are_the_checkpoints(tmp_path, tiles):
    first = start_run(
        tiny_config(tiles, tmp_path / "a", "--seed=7", "--max_steps=1", "--image_std=1,2,3"), Runtime()
    )
    first.save()
    run = start_run(tiny_config(tiles, tmp_path / "b", f"--resume={first.folder.path}"), Runtime())
    assert run.config.seed == 7 and run.config.image_std == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("word", ["--labels=plane,ship", "--labels=boat,plane", "--scale_x_y=1,1,1"])
def test_evaluating_with_other_options_is_refused_by_name(earlier, tiles, tmp_path, word):
    path = earlier.folder.best
    with pytest.raises(UserError, match=word[2:].split("=")[0] + ": "):
        open_model(tiny_config(tiles, tmp_path, f"--pretrained={path}", word))
    key = word[2:].split("=")[0]
    _, config = open_model(
        tiny_config(tiles, tmp_path, f"--pretrained={path}", word, f"--override_checkpoint={key}")
    )
    assert config.origins[key] == "command line"


# -------------------------------------------------------------------- validation images


def spoil(tiles, kind):
    path = tiles / "val" / "2.png"
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "truncated JPEG":
        data = cv2.imencode(".jpg", cv2.imread(str(path)))[1].tobytes()
        path.write_bytes(data[:-500])
    elif kind == "text":
        path.write_text("no image")
    else:
        cv2.imwrite(str(path), np.zeros((10, 10, 3), np.uint8))


@pytest.mark.parametrize("kind", ["missing", "truncated", "truncated JPEG", "text", "size"])
def test_a_damaged_validation_image_is_found_before_the_first_step(own_tiles, tmp_path, kind):
    spoil(own_tiles, kind)
    with pytest.raises(UserError, match=r"2\.png"):
        start_run(tiny_config(own_tiles, tmp_path / "out", "--run_eval=1"), Runtime())


def test_an_evaluation_that_fails_does_not_take_the_training_with_it(own_tiles, tmp_path):
    run = start_run(tiny_config(own_tiles, tmp_path / "out", *WORDS), Runtime())
    path = own_tiles / "val" / "2.png"
    path.write_bytes(path.read_bytes()[:-500])
    fit(run)
    assert run.state.step == 3 and run.failed_evaluations == 1 and run.parts.network.training
    assert run.folder.step_checkpoint(1, 3).is_file()
    log = log_of(run)
    assert (
        "epoch 1: the evaluation failed, training goes on: " in log and "2.png: the image is truncated" in log
    )
    assert "1 evaluations failed" in log


def test_a_failed_evaluation_is_in_the_exit_code(tiles, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(trainer, "evaluate_set", fails)
    assert trainer.train(tiny_config(tiles, tmp_path, *WORDS), Runtime(), StopRequest()) == 1


def test_a_stop_in_an_evaluation_is_heard_at_the_next_batch_and_made_up(tiles, tmp_path, monkeypatch):
    stop = StopRequest()
    run = start_run(tiny_config(tiles, tmp_path, *WORDS, "--eval_batch_size=1"), Runtime(), stop)
    detect, calls = run.parts.backend.detect, []

    def asked(images):
        calls.append(len(images))
        stop.number = signal.SIGTERM
        return detect(images)

    monkeypatch.setattr(run.parts.backend, "detect", asked)
    fit(run)
    assert run.stopped_by == signal.SIGTERM and len(calls) < 3
    newest = run.folder.step_checkpoints()[-1]
    assert read_checkpoint(newest)[1]["evaluated_epoch"] == 0
    resumed = start_run(tiny_config(tiles, tmp_path, *WORDS, "--resume=auto"), Runtime())
    fit(resumed)
    assert "epoch: 1, mAP:" in log_of(resumed)


# -------------------------------------------------------------------- the best checkpoint of a resumed run


def test_a_resumed_run_says_where_its_best_checkpoint_is(earlier, tiles, tmp_path):
    run = start_run(tiny_config(tiles, tmp_path, *WORDS, f"--resume_yolov4={earlier.folder.best}"), Runtime())
    fit(run)
    assert f"best checkpoint: {earlier.folder.best}" in log_of(run)
    state = read_checkpoint(earlier.folder.best)[1]
    assert json.loads(json.dumps(state))["best_path"] == str(earlier.folder.best.resolve())
