"""Starts a dry run and reads its log: what compiled at which level, and which kernels were chosen."""

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.ascend.stubs import GE_BEGINS

WORKER = Path(__file__).with_name("compile_step.py")
LAUNCHERS = ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH", "OMPI_COMM_WORLD_SIZE", "MS_ROLE")
KINDS = {"opapi_kernel": "aclnn", "acl_kernel": "aclop", "hccl_kernel": "HCCL"}
VIEWS = "rt_kernel"  # Reshape and the like: nothing is launched
# Only the parts of MindSpore whose lines are read speak: all of them would write 150 MB.
LOGGING = {"GLOG_v": "2", "MS_SUBMODULE_LOG_v": "{DEVICE:1,CORE:1}"}
_LEVEL = re.compile(r"The jit_level is: (\w+)")
_KERNEL = re.compile(r"GenerateKernelMod\] kernel opname:(\w+), kernel type:(\w+)")
_MARK = re.compile(r"DRY RUN: (begin|compiled|converts|failed) (\w+)(?:: (.*))?$")


@dataclass
class Case:
    """What was told of one case: how it ended, at which level, and the kernels of a step, (primitive, kind)."""

    end: str = ""
    level: str = ""
    error: str = ""
    kernels: Counter = field(default_factory=Counter)

    def kinds(self) -> Counter:
        """Number of kernels of each kind."""
        counts: Counter = Counter()
        for (_, kind), count in self.kernels.items():
            counts[kind] += count
        return counts


def environment(stubs: dict[str, str], **variables: str) -> dict[str, str]:
    """Environment of a dry run's process: no launcher's variables but the given ones."""
    own = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    own |= {"RANK_ID": "0", "RANK_SIZE": "1", "DEVICE_ID": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**own, **LOGGING, **stubs, **variables}


def dry_run(
    folder: Path, env: dict[str, str], cases: list[str], options: list[str], seconds: int
) -> dict[str, Case]:
    """Compile cases in one process that works in a folder; what its log tells, by case."""
    command = [sys.executable, WORKER, f"--cases={','.join(cases)}", *options]
    log = folder / "dry_run.log"
    with log.open("w") as handle:
        done = subprocess.run(
            list(map(str, command)), env=env, cwd=folder, stdout=handle, stderr=subprocess.STDOUT, check=False,
            timeout=seconds,
        )  # fmt: skip
    found = read_log(log)
    for name in cases:
        case = found.setdefault(name, Case())
        if not case.end:
            case.end = "failed"
            case.error = f"exit code {done.returncode}: {log.read_text(errors='replace')[-600:]}"
    return found


def read_log(log: Path) -> dict[str, Case]:
    """The cases of a log of `compile_step.py`."""
    found: dict[str, Case] = {}
    case = Case()
    level = ""
    for line in log.read_text(errors="replace").splitlines():
        if match := _MARK.search(line):
            word, name, error = match.groups()
            if word == "begin":
                case = found.setdefault(name, Case())
            else:
                case.end, case.error, case.level = word, error or "", level
        elif GE_BEGINS in line:
            case.end, case.level = "converts", level
        elif match := _LEVEL.search(line):
            level = match[1]  # told where it changes
        elif (match := _KERNEL.search(line)) and match[2] != VIEWS:
            case.kernels[match[1], KINDS.get(match[2], match[2])] += 1
    return found
