"""The scripts as a scheduler and a terminal stop them: the program hears it, its last line is kept, and it ends."""

import fcntl
import os
import signal
import subprocess

import pytest

from tests import ROOT

PROGRAM = """#!/usr/bin/env bash
trap 'sleep 0.5; echo saved, go on with --resume; exit 143' TERM
echo ready as $$
while :; do sleep 0.1; done
"""
SCRIPTS = {"run_standalone_train": ("data", ""), "run_eval": ("data", "net"), "run_test": ("data", "net"),
           "run_infer_310": ("net", "data", "net")}  # fmt: skip


@pytest.fixture
def start(tmp_path):
    program = tmp_path / "python"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "net").touch()

    def start(name, **variables):
        words = [str(tmp_path / word) if word else "" for word in SCRIPTS[name]]
        return subprocess.Popen(
            ["bash", str(ROOT / "scripts" / f"{name}.sh"), *words],
            cwd=tmp_path, env={**os.environ, "PYTHON": str(program), **variables}, start_new_session=True,
            stdout=subprocess.PIPE, text=True,
            # As from a terminal, also where the tests themselves were started by nohup.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    return start


def first_line(process):
    for line in process.stdout:
        if line.startswith("ready as "):
            return int(line.split()[-1])
    raise AssertionError("it did not start")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "number,code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)], ids=str
)
def test_a_stop_reaches_the_program_and_its_last_line_the_log(start, tmp_path, name, number, code):
    process = start(name)
    program = first_line(process)
    # A terminal sends Ctrl-C to all, a scheduler its signal to the script alone.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    output = process.communicate(timeout=20)[0]
    assert process.returncode == code
    assert "saved, go on with --resume" in output
    (log,) = tmp_path.glob("*/log.txt")
    assert "saved, go on with --resume" in log.read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(program, 0)


def test_cdpath_does_not_lead_astray(tmp_path):
    for folder in ("here/in", "other/in"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here" / "in" / "data").touch()
    done = subprocess.run(
        ["bash", "-c", f"source '{ROOT}/scripts/common.sh'; existing_path DATA in/data"],
        cwd=tmp_path / "here", env={**os.environ, "CDPATH": str(tmp_path / "other")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/here/in/data\n"


def distribute(tmp_path, **variables):
    (tmp_path / "data").mkdir()
    return subprocess.run(
        ["bash", str(ROOT / "scripts" / "run_distribute_train.sh"), "data", ""],
        cwd=tmp_path, env={**os.environ, "DEVICE_TARGET": "CPU", "PYTHON": "/bin/false", **variables},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("name,value", [("DEVICE_NUM", "abc"), ("NNODES", "0"), ("NODE_RANK", "-1")])
def test_numbers_of_the_environment_that_are_none(tmp_path, name, value):
    done = distribute(tmp_path, **{name: value})
    assert done.returncode == 2 and done.stderr.startswith(f"error: {name}: {value} is no number")
    assert len(done.stderr.splitlines()) == 1


def test_a_second_job_in_a_folder_leaves_the_firsts_logs(tmp_path):
    (tmp_path / "msrun_log").mkdir()
    (tmp_path / "msrun_log" / "worker_0.log").write_text("of the first")
    with (tmp_path / ".job.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = distribute(tmp_path, DEVICE_NUM="2")
    assert done.returncode == 2 and "another job is running" in done.stderr
    assert (tmp_path / "msrun_log" / "worker_0.log").read_text() == "of the first"
