"""The project's graphs compiled for Ascend by MindSpore's dry run, without a card and without CANN.

At O0 the whole compilation runs, to the choice of a kernel for every operator. At O2 it runs to where the conversion
for CANN's GE begins, which GE's own checks (no control flow) come before. docs/ascend.md says what that proves.
"""

import json
import os
import re
import shlex
import socket
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests import ROOT
from tests.ascend import stubs
from tests.ascend.dry_run import WORKER, Case, dry_run, environment, read_log
from tests.test_rank_table import documented, table_of
from tests.tiny import OPTIONS

SLIM = [word for word in OPTIONS if not word.startswith(("--device_target", "--is_distributed"))]
SECONDS = 3600
CANNOT = stubs.why_not()
if CANNOT:
    warnings.warn(f"NOTHING IS COMPILED FOR ASCEND HERE: {CANNOT}", stacklevel=1)
pytestmark = [
    pytest.mark.skipif(bool(CANNOT), reason=f"no dry run for Ascend: {CANNOT}"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    return stubs.make_stubs(tmp_path_factory.mktemp("cann"))


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "rank_table_8p.json"
    path.write_text(json.dumps(table_of(documented("10.0.0.1", range(8)))))
    return path


def compiled(variables, folder: Path, cases: str, *words: str, network=SLIM, **more: str) -> dict[str, Case]:
    return dry_run(folder, environment(variables, **more), cases.split(","), [*network, *words], SECONDS)


def assert_all(cases: dict[str, Case], end: str, level: str) -> None:
    assert {name: (case.end, case.error) for name, case in cases.items()} == dict.fromkeys(cases, (end, ""))
    assert {case.level for case in cases.values()} == {level}


def assert_kernels(case: Case) -> None:
    """Kernels of the card alone: nothing that MindSpore runs on the host."""
    kinds = case.kinds()
    assert set(kinds) <= {"aclnn", "aclop", "HCCL"} and min(kinds["aclnn"], kinds["aclop"]) > 10, kinds


def test_one_card_kernel_by_kernel(variables, tmp_path):
    cases = compiled(variables, tmp_path, "infer,train,attack,parts", "--is_distributed=0")
    assert_all(cases, "compiled", "O0")  # MindSpore's own choice for this card
    for case in cases.values():
        assert_kernels(case)
        assert case.kinds()["HCCL"] == 0
    # Every convolution with both its gradients; that of the image is not asked for.
    train = case_counts(cases["train"])
    assert train["Conv2D"] == train["Conv2DBackpropFilter"] == train["Conv2DBackpropInput"] + 1
    assert train["ApplyMomentum"] == 219


def case_counts(case: Case) -> dict[str, int]:
    return {name: count for (name, _), count in case.kernels.items()}


def test_one_card_as_a_whole_graph(variables, tmp_path):
    cases = compiled(variables, tmp_path, "infer,mixed,attack,parts", "--is_distributed=0", "--jit_level=O2")
    assert_all(cases, "converts", "O2")


def test_eight_ranks_by_rank_table(variables, tmp_path, table):
    """Started by a table alone, MindSpore takes GE of its own accord."""
    more = {
        "RANK_TABLE_FILE": str(table),
        "RANK_SIZE": "8",
        "RANK_ID": "3",
        "DEVICE_ID": "3",
        stubs.ENDS_AT_GE: "1",
    }
    cases = compiled(variables, tmp_path, "ranks", "--is_distributed=1", **more)
    assert_all(cases, "converts", "O2")


def test_eight_ranks_by_msrun(variables, tmp_path):
    """With the variables of a rank alone; what msrun itself gives is in the test of the script."""
    more = {"RANK_SIZE": "8", "RANK_ID": "7", "DEVICE_ID": "7"}
    cases = compiled(variables, tmp_path, "ranks", "--is_distributed=1", "--gradient_messages=4", **more)
    assert_all(cases, "compiled", "O0")
    assert_kernels(cases["ranks"])
    # The gradients in four messages, one for whether they are finite, and the neck's 35 BatchNorms there and back.
    assert cases["ranks"].kinds()["HCCL"] == 4 + 1 + 2 * 35


@pytest.mark.parametrize("level,end", [("O0", "compiled"), ("O2", "converts")])
def test_full_network(variables, tmp_path, level, end):
    words = ["--is_distributed=0", "--training_shape=416", "--per_batch_size=2", f"--jit_level={level}"]
    assert_all(compiled(variables, tmp_path, "infer,train", *words, network=[]), end, level)


SCHEDULER = """
import mindspore as ms
ms.set_context(device_target="CPU")
ms.communication.init()
"""


def python_of_dry_run(folder: Path, case: str, variables: dict[str, str]) -> Path:
    """A Python that compiles a case where train.py would train; it alone sees the stand-ins of CANN, so that msrun is
    in no dry run and gives its ranks what it gives them on a card. Its scheduler is the real one. Of a rank that falls
    while it leaves, with libraries that are none, its log tells whether it had compiled."""
    path = folder / "python"
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    path.write_text(
        f"""#!/usr/bin/env bash
case "$1" in
    */train.py) shift
        [ "${{MS_ROLE:-}}" != MS_SCHED ] || exec {sys.executable} -c {shlex.quote(SCHEDULER)}
        export {exports}; {sys.executable} {WORKER} --cases={case} "$@"; code=$?
        [ $code = 139 ] || exit $code ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / "msrun").symlink_to(Path(sys.executable).parent / "msrun")
    return path


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


ALL_RANKS = pytest.mark.skipif(
    "ALL_RANKS" not in os.environ, reason="eight training steps are compiled one after the other: ALL_RANKS=1"
)


@pytest.mark.parametrize("case", ["infer", pytest.param("train", marks=ALL_RANKS)])
@pytest.mark.parametrize(
    "launcher,end,level",
    # As on a card: GE for ranks that know a table alone, kernel by kernel where msrun says that it is there (MS_ROLE).
    [("rank_table", "converts", "O2"), ("msrun", "compiled", "O0")],
)
def test_launch_script_with_a_rank_table(variables, tmp_path, table, launcher, end, level, case):
    """All eight ranks of the command of the documentation, which compile in turn."""
    more = {stubs.ENDS_AT_GE: "1", stubs.TURN: str(tmp_path / "turn")}
    python = python_of_dry_run(tmp_path, case, {**variables, **more})
    env = environment({}, LAUNCHER=launcher, PYTHON=str(python), SERVER_IP="10.0.0.1")
    env |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }  # the table's own address is not this machine's
    for name in ("RANK_ID", "RANK_SIZE", "DEVICE_ID"):
        del env[name]
    (tmp_path / "data").mkdir()
    command = ["bash", ROOT / "scripts" / "run_distribute_train.sh", tmp_path / "data", "", table, *SLIM]
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    logs = {rank: (tmp_path / f"train_parallel{rank}" / "log.txt").resolve() for rank in range(8)}
    last = "".join(path.read_text(errors="replace")[-300:] for path in logs.values() if path.exists())
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:] + last
    kernels = []
    for rank, path in logs.items():
        assert re.search(rf"rank {rank} of 8 is process \d+", path.read_text(errors="replace"))
        cases = read_log(path)
        assert_all(cases, end, level)
        kernels.append(cases[case].kernels)
    assert all(counts == kernels[0] for counts in kernels)  # no rank has another graph
    assert (case, launcher) != ("train", "msrun") or kernels[0]["AllReduce", "HCCL"] == 219
    assert os.path.exists(tmp_path / "msrun_log") == (launcher == "msrun")  # noqa: PTH110
