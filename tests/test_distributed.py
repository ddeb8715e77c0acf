"""Several processes for real: equal weights, equal AP, a rank that dies, and the launch script."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.train.run_folder import last_checkpoints
from src.weights.checkpoint import read_checkpoint
from tests import ROOT
from tests.test_rank_table import documented, table_of
from tests.tiny import OPTIONS, write_tiles

LAUNCH = ROOT / "scripts" / "run_distribute_train.sh"
NO_AUGMENTATION = [
    "--jitter=0",
    "--hue=0",
    "--saturation=1",
    "--value=1",
    "--augment_flip=0",
    "--each_multiscale=0",
    "--resize_filters=bilinear",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many_tiles(tmp_path_factory):
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set", train=20, val=7)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_with_path(command: list) -> subprocess.CompletedProcess:
    """Run words with this Python's folder in front of the path, where msrun looks for `python`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env={**os.environ, "PATH": path},
    )


def run_worker(
    workers: int, mode: str, out: Path, many_tiles: Path, *words: str
) -> list[np.lib.npyio.NpzFile]:
    """What each rank wrote."""
    script = [
        ROOT / "tests" / "distributed_worker.py",
        mode,
        out,
        *OPTIONS,
        f"--data_dir={many_tiles}",
        f"--ckpt_path={out}",
    ]
    command = [sys.executable, *script, *words]
    if workers > 1:
        command = [
            Path(sys.executable).parent / "msrun", f"--worker_num={workers}", f"--local_worker_num={workers}",
            f"--master_port={free_port()}", f"--log_dir={out / 'logs'}", "--join=True",
            *script, "--is_distributed=1", *words,
        ]  # fmt: skip
    done = run_with_path(command)
    logs = "\n".join(file.read_text()[-1500:] for file in out.glob("logs/worker_*.log"))
    assert done.returncode == 0, done.stderr[-1500:] + logs
    return [np.load(out / f"rank{rank}.npz") for rank in range(workers)]


def weight_keys(values, step):
    return [key for key in values.files if key.startswith(f"{step}:")]


def test_ranks_hold_equal_weights_and_match_one_process_with_twice_the_batch(many_tiles, tmp_path):
    """BatchNorm frozen and no augmentation, so that the mean of two gradients is that of the whole batch."""
    words = ["--per_batch_size=2", "--freeze_bn", *NO_AUGMENTATION]
    first, second = run_worker(2, "train", tmp_path / "two", many_tiles, *words)
    (single,) = run_worker(1, "train", tmp_path / "one", many_tiles, "--per_batch_size=4", *words[1:])
    for step in range(1, 6):
        keys = weight_keys(first, step)
        assert len(keys) > 100
        shared = {*first[f"{step}/pictures"], *second[f"{step}/pictures"]}
        assert len(shared) == 4 and shared == set(single[f"{step}/pictures"])
        for key in keys:
            assert np.array_equal(first[key], second[key]), key
            np.testing.assert_allclose(first[key], single[key], rtol=1e-5, atol=1e-5)
    moved = max(np.abs(first[f"1:{key[2:]}"] - first[f"5:{key[2:]}"]).max() for key in weight_keys(first, 5))
    assert moved > 1e-4  # it did train


def test_an_overflow_on_one_rank_is_one_on_all(many_tiles, tmp_path):
    """Both leave the step out and halve the factor, although the gradients of rank 0 are finite."""
    first, second = run_worker(2, "overflow", tmp_path, many_tiles)
    for key in ("good", "good_scale", "left_out", "left_out_scale"):
        assert np.array_equal(first[key], second[key]), key
    assert (first["good"] != [1.0, -1.0]).all() and first["good_scale"] == 8
    assert np.array_equal(first["left_out"], first["good"]) and first["left_out_scale"] == 4


def test_synchronised_batch_norm_equals_one_process_with_twice_the_batch(many_tiles, tmp_path):
    words = ["--per_batch_size=2", "--sync_bn=1", "--lr=0.001", *NO_AUGMENTATION]
    first, second = run_worker(2, "train", tmp_path / "two", many_tiles, *words)
    (single,) = run_worker(1, "train", tmp_path / "one", many_tiles, "--per_batch_size=4", *words[1:])
    for key in weight_keys(
        first, 1
    ):  # later steps part: the stem's gradient is large (BatchNorm in training)
        np.testing.assert_allclose(first[key], single[key], rtol=1e-5, atol=1e-5)
    for key in weight_keys(first, 5):
        assert np.array_equal(first[key], second[key]), key
    statistics = [key for key in first.files if key.startswith("1/") and "moving" in key]
    assert len(statistics) > 100
    for key in statistics:
        assert np.array_equal(first[key], second[key])
        np.testing.assert_allclose(first[key], single[key], rtol=1e-4, atol=1e-5)


def test_ranks_see_the_same_shapes_with_augmentation(many_tiles, tmp_path):
    words = ["--training_shape=", "--multi_scale=[[64,64],[64,96]]", "--resize_rate=2", "--mosaic=1"]
    first, second = run_worker(2, "train", tmp_path, many_tiles, *words)
    shapes = [tuple(first[f"{step}/shape"]) for step in range(1, 6)]
    assert shapes == [tuple(second[f"{step}/shape"]) for step in range(1, 6)] and len(set(shapes)) > 1
    for key in weight_keys(first, 5):
        assert np.array_equal(first[key], second[key])


def test_shared_evaluation_equals_that_of_one_process(many_tiles, tmp_path):
    """Seven images on three ranks: each counted once, AP equal to the digit."""
    words = ["--eval_ignore_threshold=0.2"]
    ranks = run_worker(3, "evaluate", tmp_path / "three", many_tiles, *words)
    (single,) = run_worker(1, "evaluate", tmp_path / "one", many_tiles, *words)
    assert len(single["table"]) > 50
    for values in ranks:
        assert values["table"].tobytes() == single["table"].tobytes()
        assert values["stats"].tolist() == single["stats"].tolist()
    assert len(list((tmp_path / "three").glob("predict_*.json"))) == 1


def launch(tmp_path, many_tiles, *words, **environment):
    command = ["bash", LAUNCH, many_tiles, "", *words]
    values = {**os.environ, "PYTHON": sys.executable, "MASTER_PORT": str(free_port()), **environment}
    return subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        env=values,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_the_msrun_form_of_the_other_system(many_tiles, tmp_path):
    """`msrun ... python train.py --config ... --is_parallel True --epochs N`, with a slim network on the CPU."""
    command = [
        "msrun", "--worker_num=2", "--local_worker_num=2", "--bind_core=True", f"--log_dir={tmp_path / 'yolov4_log'}",
        f"--master_port={free_port()}", "--join=True", "python", ROOT / "train.py",
        "--config", ROOT / "configs" / "yolov4" / "yolov4-silu.yaml", "--device_target", "CPU",
        "--is_parallel", "True", "--epochs", "2", "--pretrained_backbone=", *OPTIONS[2:7], "--per_batch_size=2",
        "--log_interval=1", f"--data_dir={many_tiles}", f"--ckpt_path={tmp_path / 'out'}",
    ]  # fmt: skip
    done = run_with_path(command)
    log = (tmp_path / "yolov4_log" / "worker_0.log").read_text()
    assert done.returncode == 0, done.stderr[-1500:] + log[-1500:]
    assert len(re.findall(r"iter\[\d+\]", log)) == 10
    assert list((tmp_path / "out").glob("*/ckpt_0/0-2_10.ckpt"))


def test_a_killed_rank_stops_the_job_and_the_run_resumes_on_one_process(many_tiles, tmp_path):
    out = tmp_path / "out"
    words = [*OPTIONS, "--is_distributed=1", f"--ckpt_path={out}", "--ckpt_interval=1", "--max_epoch=500"]
    job = launch(tmp_path, many_tiles, *words, DEVICE_TARGET="CPU", DEVICE_NUM="2")
    try:
        deadline = time.monotonic() + 200
        while not list(out.glob("*/ckpt_0/0-*_7.ckpt")):
            assert job.poll() is None and time.monotonic() < deadline, job.stdout.read()
            time.sleep(0.2)
        log = (tmp_path / "train_parallel1" / "log.txt").read_text()
        os.kill(int(re.search(r"rank 1 of 2 is process (\d+)", log)[1]), signal.SIGKILL)
        killed = time.monotonic()
        printed, _ = job.communicate(timeout=60)
        assert job.returncode != 0 and time.monotonic() - killed < 60
        assert "rank 1 failed (exit code -9)" in printed
        assert processes_of(out) == []
    finally:
        job.kill()
    checkpoint = last_checkpoints("auto", out)[0]
    _, state = read_checkpoint(checkpoint)
    # 20 images: 5 steps of 2 x 2 images an epoch became 10 steps of 2 images.
    expected = round(state["step"] / 5 * 10)
    words = [*OPTIONS, f"--data_dir={many_tiles}", f"--ckpt_path={out}", "--resume=auto", "--max_epoch=500"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *words, f"--max_steps={expected + 2}"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    assert re.findall(r"iter\[(\d+)\]", done.stdout) == [str(expected), str(expected + 1)]


def fake_python(tmp_path) -> Path:
    """A Python that does not train: it notes its environment; rank FAILS exits with 3, the others wait."""
    path = tmp_path / "python"
    path.write_text(
        f"""#!/usr/bin/env bash
case "$1" in */train.py) ;; *) exec {sys.executable} "$@" ;; esac
cpus=$(taskset -cp $$ | sed 's/.*: //')
tables="$RANK_TABLE_FILE $MINDSPORE_HCCL_CONFIG_PATH"
echo "$RANK_ID $DEVICE_ID $RANK_SIZE $tables cpus=$cpus $*" >> {tmp_path}/started.txt
if [ "$RANK_ID" = "$FAILS" ]; then sleep 1; exit 3; fi
if [ -n "$FAILS" ]; then exec sleep 300.{os.getpid()}; fi
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("fails", ["", "3"])
def test_one_process_a_card_of_the_rank_table(many_tiles, tmp_path, fails):
    """The ranks of the second of two servers, each in its folder; one that fails stops the others."""
    table = tmp_path / "table.json"
    table.write_text(
        json.dumps(table_of(documented("10.0.0.1", range(2), 0, 1), documented("10.0.0.2", [4, 7], 2, 2)))
    )
    job = launch(
        tmp_path, many_tiles, table, "--max_epoch=1",
        PYTHON=str(fake_python(tmp_path)), SERVER_IP="10.0.0.2", FAILS=fails,
    )  # fmt: skip
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == (1 if fails else 0), printed
    lines = sorted((tmp_path / "started.txt").read_text().splitlines())
    assert [line.split()[:3] for line in lines] == [["2", "4", "4"], ["3", "7", "4"]]
    for line in lines:
        assert line.split()[3:5] == [str(table), str(table)]
        assert (
            f"--data_dir={many_tiles}" in line
            and "--is_distributed=1" in line
            and line.endswith("--max_epoch=1")
        )
    assert (tmp_path / "train_parallel2" / "log.txt").exists() and (
        tmp_path / "train_parallel3" / "log.txt"
    ).exists()
    if os.cpu_count() > 1:
        assert len({re.search(r"cpus=(\S+)", line)[1] for line in lines}) == 2
    if fails:
        assert "rank 3 failed (exit code 3), see train_parallel3/log.txt" in printed
        sleeping = subprocess.run(
            ["pgrep", "-f", f"sleep 300.{os.getpid()}"], capture_output=True, text=True, check=False
        )
        assert sleeping.stdout == ""


def fake_msrun(tmp_path, takes_table: bool = True) -> Path:
    """An msrun beside a Python that does not train: it notes its words and the variables that it was given."""
    path = tmp_path / "msrun"
    option = "--rank_table_file" if takes_table else ""
    path.write_text(
        f"""#!/usr/bin/env bash
if [ "$1" = --help ]; then echo "--log_dir {option}"; exit; fi
echo "tables=$RANK_TABLE_FILE$MINDSPORE_HCCL_CONFIG_PATH $*" > {tmp_path}/msrun.txt
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return fake_python(tmp_path)


def eight_cards(tmp_path) -> Path:
    table = tmp_path / "rank_table_8p.json"
    servers = [documented(f"10.0.0.{number}", range(8), 8 * number - 8, number) for number in (1, 2)]
    table.write_text(json.dumps(table_of(*servers)))
    return table


def test_rank_table_is_started_by_msrun(many_tiles, tmp_path):
    """Sixteen ranks on two servers, this one the second; a cloud's own table does not get through."""
    table = eight_cards(tmp_path)
    job = launch(
        tmp_path, many_tiles, table, "--max_epoch=1",
        PYTHON=str(fake_msrun(tmp_path)), SERVER_IP="10.0.0.2", RANK_TABLE_FILE="/user/config", FAILS="",
    )  # fmt: skip
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == 0, printed
    words = (tmp_path / "msrun.txt").read_text().split()
    assert words[0] == "tables="
    for word in ("--worker_num=16", "--local_worker_num=8", "--master_addr=10.0.0.1", "--node_rank=1"):
        assert word in words
    assert f"--rank_table_file={table}" in words and "--max_epoch=1" in words
    assert not (tmp_path / "started.txt").exists()


@pytest.mark.parametrize("launcher,takes_table", [("rank_table", True), ("", False)])
def test_rank_table_is_started_without_msrun(many_tiles, tmp_path, launcher, takes_table):
    python = fake_msrun(tmp_path, takes_table)
    table = eight_cards(tmp_path)
    job = launch(
        tmp_path, many_tiles, table, PYTHON=str(python), SERVER_IP="10.0.0.2", LAUNCHER=launcher, FAILS=""
    )
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == 0, printed
    assert ("no msrun with --rank_table_file" in printed) == (not takes_table)
    ranks = sorted(int(line.split()[0]) for line in (tmp_path / "started.txt").read_text().splitlines())
    assert ranks == list(range(8, 16))


def test_launcher_that_cannot_is_named(many_tiles, tmp_path):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(table_of(documented("10.0.0.1", [4, 5]))))
    for words, launcher, named in (
        ([table], "msrun", "rank 0 is on card 4"),
        ([table], "mpirun", "neither msrun nor rank_table"),
        ([], "rank_table", "needs a RANK_TABLE_FILE"),
    ):
        job = launch(tmp_path, many_tiles, *words, LAUNCHER=launcher, PYTHON=str(fake_msrun(tmp_path)))
        assert named in job.communicate(timeout=30)[0] and job.returncode == 2


def test_wrong_arguments_are_named(many_tiles, tmp_path):
    job = launch(tmp_path, tmp_path / "none")
    assert "DATASET_PATH: no such file or folder" in job.communicate(timeout=30)[0] and job.returncode == 2
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    job = launch(tmp_path, many_tiles, bad)
    assert "no rank table" in job.communicate(timeout=30)[0] and job.returncode == 2
    with pytest.raises(UserError, match="no checkpoint to go on from"):
        last_checkpoints("auto", tmp_path)[0]
