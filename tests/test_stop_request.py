"""Stopping a run from outside: real processes, real signals; a resumed run ends as one that was not stopped."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.kills import kill_and_resume, same_checkpoint, uninterrupted
from src.remote.object_storage import open_store
from src.remote.results_upload import upload
from src.runtime.device import Runtime
from src.runtime.stop_request import AgreedStop, StopRequest
from src.train.run import start_run
from src.train.run_folder import last_checkpoints
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint
from tests import ROOT
from tests.test_distributed import free_port
from tests.tiny import OPTIONS, tiny_config, train, write_tiles


@pytest.fixture(scope="module")
def words(compile_cache):
    """Options of a run of 60 steps. The network is compiled once for all of this file's runs that have them."""
    return ["--max_epoch=20", "--ema_decay=0.99", "--mosaic=0.5", f"--compile_cache={compile_cache}"]


@pytest.fixture(scope="module")
def compiled_ranks(tmp_path_factory):
    """Environment in which each of two ranks compiles once; for runs of one graph alone: MindSpore does not look."""
    cache = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": str(tmp_path_factory.mktemp("ranks"))}
    return {**os.environ, **cache}


def start(tiles, out, *words):
    words = [*OPTIONS, f"--data_dir={tiles}", f"--ckpt_path={out}", *words]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def read_until(process, pattern):
    """The output up to a line that matches."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def whole(tiles, words, tmp_path_factory):
    """Folder of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("whole")
    process = start(tiles, out, *words)
    log = process.communicate(timeout=400)[0]
    assert process.returncode == 0, log[-2000:]
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_how_to_go_on_and_ends_as_if_it_had_not_been(
    tiles, whole, words, tmp_path, number
):
    process = start(tiles, tmp_path, *words)
    read_until(process, r"iter\[10\]")
    process.send_signal(number)
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, rest
    step, folder = re.search(
        rf"WARNING:{number.name}: stopped after step (\d+), checkpoint saved; go on with the same options and "
        r"--resume=(\S+)$",
        rest,
        re.M,
    ).groups()
    assert f"{number.name}: stopping after the step under way" in rest and "Traceback" not in rest
    assert 11 <= int(step) < 60
    assert last_checkpoints(folder, tmp_path)[0].stem.endswith(f"_{step}")
    resumed = start(tiles, tmp_path, *words, f"--resume={folder}")
    log = resumed.communicate(timeout=400)[0]
    assert resumed.returncode == 0, log[-2000:]
    assert re.search(r"iter\[(\d+)\]", log)[1] == step  # the first one: not a step done twice
    assert same_checkpoint(last_checkpoints("auto", tmp_path)[0], last_checkpoints("auto", whole)[0])


def test_a_second_interrupt_leaves_at_once(tiles, tmp_path):
    """While the first step is compiled, which takes seconds in which no step can end."""
    process = start(tiles, tmp_path, "--max_epoch=500")
    read_until(process, "train.json: 6 images")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    read_until(process, "SIGINT: stopping after the step under way")
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begin < 2
    assert not list(tmp_path.glob("*/ckpt_0/*"))


def test_a_stop_before_the_first_step_saves_nothing(tiles, tmp_path):
    stop = StopRequest()
    stop.number = signal.SIGTERM
    started = start_run(tiny_config(tiles, tmp_path), Runtime(), stop)
    fit(started)
    assert started.stopped_by == signal.SIGTERM and started.state.step == 0
    assert not list(tmp_path.glob("*/ckpt_0/*"))
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "SIGTERM: stopped at step 0, nothing new to save" in log


def test_an_evaluation_that_was_missed_is_made_up(compile_cache, tiles, tmp_path):
    """A checkpoint at an epoch's end is older than the epoch's evaluation; a kill in between must not lose it."""
    words = ["--run_eval=1", "--eval_start_epoch=1", "--max_epoch=2"]
    whole, log = train(compile_cache, tiles, tmp_path / "whole", *words)
    checkpoint = whole / "ckpt_0" / "0-1_3.ckpt"
    assert read_checkpoint(checkpoint)[1]["best_map"] == -1
    _, resumed_log = train(compile_cache, tiles, tmp_path / "b", *words, f"--resume_yolov4={checkpoint}")
    best = re.compile(r"the best mAP is: \S+, the best mAP epoch is (\d)$", re.M)
    assert best.search(resumed_log)[0] == best.search(log)[0]
    assert re.findall(r"epoch: (\d), mAP:", resumed_log) == ["1", "2"]
    state = read_checkpoint(whole / "ckpt_0" / "best_map.ckpt")[1]
    assert state["evaluated_epoch"] == int(best.search(log)[1])


def test_half_a_checkpoint_of_a_killed_run_is_not_uploaded(tmp_path):
    folder = tmp_path / "out" / "ckpt_0"
    folder.mkdir(parents=True)
    (folder / ".0-1_3.writing.ckpt").write_bytes(b"half")
    (folder / "0-1_2.ckpt").write_bytes(b"whole")
    (tmp_path / "bucket").mkdir()
    upload(open_store(str(tmp_path / "bucket"), "train_url"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "bucket").rglob("*ckpt")] == ["0-1_2.ckpt"]


def test_a_cloud_job_that_is_stopped_uploads_its_checkpoint(tiles, words, tmp_path):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    places = [
        "--enable_modelarts=1", f"--data_url={tiles}", f"--data_path={tmp_path / 'data'}",
        f"--output_path={tmp_path / 'out'}", f"--load_path={tmp_path / 'load'}", f"--train_url={bucket}",
        "--checkpoint_url=", "--need_modelarts_dataset_unzip=0", f"--data_dir={tmp_path / 'data'}",
        "--ckpt_path=outputs", "--log_path=outputs",
    ]  # fmt: skip
    process = start(tiles, "outputs", *words, *places)
    read_until(process, r"iter\[4\]")
    process.terminate()
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 143, rest
    step = re.search(r"stopped after step (\d+), checkpoint saved", rest)[1]
    (uploaded,) = bucket.glob(f"outputs/*/ckpt_0/0-*_{step}.ckpt")
    assert read_checkpoint(uploaded)[1]["step"] == int(step)


GIVEN_BACK = """
import os, signal, time
from src.runtime.stop_request import StopRequest
earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
stop = StopRequest()
with stop.listening():
    os.kill(os.getpid(), signal.SIGTERM)
    while not stop.number:
        time.sleep(0.01)
assert stop.number == signal.SIGTERM
assert {number: signal.getsignal(number) for number in earlier} == earlier
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_nothing_that_starts_threads_is_imported_before_signals_are_blocked():
    """Such a thread would receive SIGINT, and MindSpore turns that into SIGTERM."""
    words = "from src.commands import train; from src.config import load_config; import src.remote.modelarts"
    code = f"{words}; load_config([], 'train'); import sys; print({{'numpy', 'mindspore', 'cv2'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_signals_are_given_back():
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_ranks_ask_at_the_same_steps_about_once_a_second(monkeypatch):
    """Two ranks of different speed, stepped in turn; the second one alone is asked to stop."""
    clock = [0.0]
    ranks = [AgreedStop(StopRequest(), Runtime(rank, 2)) for rank in (0, 1)]
    mine: list[list[int]] = []
    monkeypatch.setattr("src.runtime.stop_request.time.monotonic", lambda: clock[0] + 1)

    def first_gather(runtime, numbers):  # collects; the answers follow when both have asked
        mine.append(numbers)
        return np.array([numbers])

    asked = []
    for step in range(200):
        clock[0] += 0.05
        rows = []
        for rank in ranks:
            mine.clear()
            monkeypatch.setattr("src.runtime.collectives.gather_numbers", first_gather)
            due = step >= rank.next_step
            if due:
                seconds = 0.05 if rank.runtime.rank == 0 else 0.1
                rows.append([rank.request.number, int(seconds * 1e6)])
        assert len(rows) in (0, 2)
        monkeypatch.setattr(
            "src.runtime.collectives.gather_numbers", lambda runtime, numbers, rows=rows: np.array(rows)
        )
        answers = [rank.at_step(step) for rank in ranks]
        if rows:
            asked.append(step)
        if step == 57:
            ranks[1].request.number = signal.SIGTERM
        if any(answers):
            assert answers == [signal.SIGTERM, signal.SIGTERM]
            break
    assert asked == [0, 10, 20, 30, 40, 50, 60]  # a second of the slower rank's steps


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["one rank", "the launcher"])
def test_two_ranks_stop_at_the_same_step(tiles, compiled_ranks, tmp_path, asked):
    words = [*OPTIONS, "--is_distributed=1", f"--ckpt_path={tmp_path / 'runs'}", "--is_save_on_master=0"]
    job = subprocess.Popen(
        ["bash", str(ROOT / "scripts" / "run_distribute_train.sh"), str(tiles), "", *words, "--max_epoch=500"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**compiled_ranks, "PYTHON": sys.executable, "MASTER_PORT": str(free_port()), "DEVICE_TARGET": "CPU",
             "DEVICE_NUM": "2"},
    )  # fmt: skip
    logs = [tmp_path / "msrun_log" / f"worker_{rank}.log" for rank in (0, 1)]
    deadline = time.monotonic() + 300
    while not (logs[0].exists() and "iter[10]" in logs[0].read_text()):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    rank_1 = int(re.search(r"rank 1 of 2 is process (\d+)", logs[1].read_text())[1])
    os.kill(rank_1 if asked == "one rank" else job.pid, signal.SIGTERM)
    printed = job.communicate(timeout=120)[0]
    assert job.returncode == (1 if asked == "one rank" else 143), printed
    texts = [log.read_text() for log in logs]
    step = re.search(r"SIGTERM: stopped after step (\d+), checkpoint saved", texts[0])[1]
    assert ("SIGTERM: stopping after the step under way" in texts[0]) == (asked == "the launcher")
    assert "SIGTERM: stopping after the step under way" in texts[1]
    files = sorted((tmp_path / "runs").glob(f"*/ckpt_*/*_{step}.ckpt"))
    assert [file.parent.name for file in files] == ["ckpt_0", "ckpt_1"]
    (first, state), (second, _) = map(read_checkpoint, files)
    assert state["step"] == int(step)
    for name, value in first.items():
        if "moving_" not in name:  # BatchNorm statistics are each rank's own
            assert np.array_equal(value, second[name]), name


@pytest.mark.slow
def test_killed_runs_end_as_the_uninterrupted_one(tmp_path):
    """Three SIGKILLs, one inside a checkpoint's write; benchmarks/kills.py has the long form."""
    import random

    tiles = write_tiles(tmp_path / "set")
    reference = uninterrupted(tiles, tmp_path / "whole", 12)
    kills, equal = kill_and_resume(
        tiles, tmp_path / "run", reference, 12, ["write", "start", "step"], random.Random(3)
    )
    assert len(kills) >= 2 and kills[0].in_write
    assert all(kill.equal for kill in kills) and equal
