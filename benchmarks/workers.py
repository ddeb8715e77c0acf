"""Driver's side of the worker processes: start, run in turn, watch that those at rest are at rest."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS_PYTHON = ROOT / "benchmarks/peers/.venv/bin/python"
THREADS = 2
_TICKS = os.sysconf("SC_CLK_TCK")


class WorkerError(RuntimeError):
    """A worker ended; the message has the end of what it printed."""


class Worker:
    """A process that has built one case and runs its functions on demand.

    Args:
        module: such as `benchmarks.ours`, run with `python -m`.
        case: name of the case.
        python: the interpreter; the driver's own by default.
        environment: variables beside those of the driver.
        arguments: of the case.
    """

    def __init__(self, module: str, case: str, *, python=sys.executable, environment=None, **arguments):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed on exit)
        # Threads at rest must sleep: they would take the cores of the worker whose turn it is.
        fixed = {
            "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "GLOG_v": "3",
        }  # fmt: skip
        self.name = f"{module}: {case}"
        self.process = subprocess.Popen(
            [str(python), "-m", module, json.dumps({"case": case, **arguments})],
            cwd=ROOT, env={**os.environ, **fixed, **(environment or {})}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.info = self._answer()["info"]

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def run(self, name: str) -> dict:
        """Run a function of the case once: its `seconds`, `value` and the process's `peak` memory in bytes."""
        self.process.stdin.write(json.dumps({"run": name}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def processor_seconds(self) -> float:
        """Processor time of all threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise WorkerError(f"{self.name}: {self.errors.read()[-2000:]}")


@dataclass
class Timing:
    """What was measured of one function.

    Attributes:
        first: seconds of its first run, which compiles and warms up.
        seconds: of each run after the warm-up.
        processor: processor seconds of each of them, over all threads.
        peak: largest memory of its process, in bytes.
        busy_at_rest: processor seconds, for a second of the others' runs, that its process took in the meantime.
        values: what the runs returned.
    """

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peak: int = 0
    busy_at_rest: float = 0.0
    values: list = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def interleave(runs: dict[str, tuple[Worker, str]], repeats: int, warm_ups: int = 1) -> dict[str, Timing]:
    """Run functions in turn (A B C A B C ...), so that other work on the machine falls on all alike.

    Args:
        runs: (worker, function) by the name under which the result is returned.
        repeats: runs of each that count.
        warm_ups: runs of each before, at least 1.
    """
    timings = {name: Timing() for name in runs}
    spent_others = dict.fromkeys(runs, 0.0)
    at_rest = dict.fromkeys(runs, 0.0)
    for turn in range(warm_ups + repeats):
        for name, (worker, function) in runs.items():
            before = {
                other: runs[other][0].processor_seconds() for other in runs if runs[other][0] is not worker
            }
            result = worker.run(function)
            timing = timings[name]
            if turn == 0:
                timing.first = result["seconds"]
            if turn >= warm_ups:
                timing.seconds.append(result["seconds"])
                timing.processor.append(result["processor"])
                for other, seconds in before.items():
                    at_rest[other] += runs[other][0].processor_seconds() - seconds
                    spent_others[other] += result["seconds"]
            timing.peak = result["peak"]
            timing.values.append(result["value"])
    for name, timing in timings.items():
        timing.busy_at_rest = at_rest[name] / spent_others[name] if spent_others[name] else 0.0
    return timings


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Median of the ratios of neighbouring runs: what slows both for a while cancels out."""
    return statistics.median(a / b for a, b in zip(ours, peer))
