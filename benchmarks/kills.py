"""SIGKILL a tiny training run at random moments, resume it, and compare with the run that nobody killed.

Each run is killed `--chain` times, resumed with `--resume` after each, and left to end after the last. After a kill
the newest checkpoint is compared with the uninterrupted run's checkpoint of the same step, and at the end the last
ones: every weight, BatchNorm statistic, optimizer slot, moving average, and the state; bit for bit. Moments: while
the run starts, at any time while it trains, and inside the write of a checkpoint (its temporary file is there).

    python -m benchmarks.kills --kills 25
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

import numpy as np  # noqa: E402

from src.base.errors import UserError  # noqa: E402
from src.train.run_folder import last_checkpoints  # noqa: E402
from src.weights.checkpoint import read_checkpoint  # noqa: E402
from tests.tiny import OPTIONS, write_tiles  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["--ckpt_interval=1", "--keep_checkpoint_max=100000", "--ema_decay=0.99", "--mosaic=0.3"]
MOMENTS = ("write", "step", "write", "step", "start")
START_SECONDS, STEP_SECONDS = 12.0, 2.0  # a kill comes up to so long after the start, or the first step
CACHE = {"MS_COMPILER_CACHE_ENABLE": "1"}
LONGEST = 600.0  # seconds of a run


@dataclass
class Kill:
    """One kill and what was there afterwards.

    Attributes:
        moment: what was waited for.
        in_write: whether it left a checkpoint's temporary file.
        step: of the newest whole checkpoint, 0 if there is none.
        equal: whether that checkpoint is the uninterrupted run's.
    """

    moment: str
    in_write: bool
    step: int
    equal: bool


class Run:
    """A `train.py` of the tiny network in a process of its own."""

    def __init__(self, data: Path, out: Path, epochs: int, resume: str = ""):
        self.out = out
        self.log = out.parent / f"{out.name}_{time.monotonic_ns()}.log"
        words = [*OPTIONS, *WORDS, f"--max_epoch={epochs}", f"--data_dir={data}", f"--ckpt_path={out}"]
        cache = out.parent / "compiled"  # of the uninterrupted run: the others start in half the time
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *words, f"--resume={resume}"],
                stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **CACHE, "MS_COMPILER_CACHE_PATH": str(cache)},
            )  # fmt: skip

    def wait_for(self, happened) -> bool:
        """Poll until `happened()` or the end of the process; whether it did."""
        end = time.monotonic() + LONGEST
        while self.process.poll() is None:
            if happened():
                return True
            if time.monotonic() > end:
                self.process.kill()
                raise TimeoutError(f"no end after {LONGEST:.0f} s: {self.log}")
            time.sleep(0.0005)
        return False

    def finish(self) -> None:
        """Wait for its good end."""
        self.wait_for(lambda: False)
        if self.process.returncode:
            raise RuntimeError(f"exit code {self.process.returncode}: {self.log.read_text()[-2000:]}")

    def kill(self, moment: str, rng: random.Random) -> bool:
        """SIGKILL at a moment; False if the run ended before."""
        known = set(self.out.glob("*/"))
        begin = time.monotonic()
        folder: list[Path] = []

        def find_folder() -> bool:
            folder[:] = [path for path in self.out.glob("*/ckpt_0") if path.parent not in known]
            return bool(folder)

        if moment == "start":
            delay = rng.uniform(0, START_SECONDS)
            happened = self.wait_for(lambda: time.monotonic() - begin > delay)
        else:
            delay = rng.uniform(0, STEP_SECONDS)
            happened = self.wait_for(find_folder)
            begin = time.monotonic()
            happened = happened and self.wait_for(lambda: time.monotonic() - begin > delay)
            if moment == "write":
                happened = happened and self.wait_for(lambda: any(folder[0].glob(".*.writing.ckpt")))
        if happened:
            self.process.kill()
        self.process.wait()
        return happened


def same_checkpoint(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same names, the same bits and the same state, but for the time it took."""
    (values, state), (others, other_state) = read_checkpoint(one), read_checkpoint(other)
    return (
        _timeless(state) == _timeless(other_state)
        and set(values) == set(others)
        and all(np.array_equal(value, others[name]) for name, value in values.items())
    )


def _timeless(state: dict | None) -> dict | None:
    """The state without the seconds of the epoch under way, the last of its sums, the moment and the run's folder."""
    return state and {**state, "epoch_sums": state["epoch_sums"][:-1], "saved_at": 0, "best_path": ""}


def newest(out: Path) -> Path | None:
    """The newest whole checkpoint of all runs in a folder."""
    try:
        return last_checkpoints("auto", out)[0]
    except UserError:
        return None


def kill_and_resume(
    data: Path, out: Path, reference: Path, epochs: int, moments: list[str], rng: random.Random
) -> tuple[list[Kill], bool]:
    """Kill a run at each of the moments, resume it after each; the kills, and whether its end is the reference's."""
    kills = []
    for moment in moments:
        run = Run(data, out, epochs, "auto" if newest(out) else "")
        if not run.kill(moment, rng):
            break  # it came to its end before
        left = list(out.glob("*/ckpt_0/.*.writing.ckpt"))
        checkpoint = newest(out)
        step = int(checkpoint.stem.rsplit("_", 1)[1]) if checkpoint else 0
        equal = checkpoint is None or same_checkpoint(checkpoint, reference / checkpoint.name)
        kills.append(Kill(moment, bool(left), step, equal))
        for path in left:
            path.unlink()
    Run(data, out, epochs, "auto" if newest(out) else "").finish()
    last = newest(out)
    return kills, same_checkpoint(last, last_checkpoints("auto", reference.parent.parent)[0])


def uninterrupted(data: Path, out: Path, epochs: int) -> Path:
    """Folder of the checkpoints, one a step, of a run that nobody kills."""
    Run(data, out, epochs).finish()
    return newest(out).parent


def main(argv: list[str] | None = None) -> int:
    """Kill, resume, compare and print a table; 0 if all were equal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--chain", type=int, default=1, help="kills of one run before it may end")
    parser.add_argument("--epochs", type=int, default=12, help="of three steps each")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    options = parser.parse_args(argv)
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_tiles(root / "set")
        reference = uninterrupted(data, root / "whole", options.epochs)
        print(
            f"uninterrupted: {len(list(reference.glob('*.ckpt')))} steps, a checkpoint after each", flush=True
        )
        print("| kill | run | waited for | in a write | last checkpoint | equal there | run's end equal |")
        print("|---|---|---|---|---|---|---|")
        done, good, number = 0, 0, 0
        while done < options.kills:
            number += 1
            count = min(options.chain, options.kills - done)
            moments = [MOMENTS[(done + index) % len(MOMENTS)] for index in range(count)]
            kills, end_equal = kill_and_resume(
                data, root / f"run{number}", reference, options.epochs, moments, rng
            )
            for kill in kills:
                done += 1
                good += kill.equal and end_equal
                words = ["no", "yes"]
                print(
                    f"| {done} | {number} | {kill.moment} | {words[kill.in_write]} | step {kill.step} "
                    f"| {words[kill.equal]} | {words[end_equal]} |",
                    flush=True,
                )
    print(f"{good} of {done} kills: the resumed run has the uninterrupted run's weights, bit for bit")
    return 0 if good == done else 1


if __name__ == "__main__":
    sys.exit(main())
