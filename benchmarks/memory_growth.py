"""Resident memory of a long training run of the tiny network: multi-scale, evaluations and checkpoints on the way.

    python -m benchmarks.memory_growth --steps 3000

The run is `train.py` in a process of its own; its resident memory (VmRSS) is read at each log line. By step 500 all
shapes are compiled and evaluations have run, so what comes on top of that is growth.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.tiny import OPTIONS, write_tiles

ROOT = Path(__file__).resolve().parent.parent
WORDS = [
    "--training_shape=", "--multi_scale=[[64,64],[96,96],[128,128]]", "--resize_rate=10", "--mosaic=0.5",
    "--ema_decay=0.999", "--run_eval=1", "--eval_start_epoch=1", "--eval_interval=5", "--ckpt_interval=50",
    "--log_interval=100", "--lr=0.001",
]  # fmt: skip
SETTLED = 500  # steps


def resident(process: int) -> int:
    """Resident memory of a process in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def measure(data: Path, out: Path, steps: int) -> dict[int, int]:
    """Resident memory after each hundred steps of a run."""
    words = [*OPTIONS, *WORDS, "--max_epoch=100000", f"--max_steps={steps}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *words, f"--data_dir={data}", f"--ckpt_path={out}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    found, text = {}, []
    for line in process.stdout:
        text.append(line)
        step = re.search(r"iter\[(\d+)\]", line)
        if step:
            found[int(step[1]) + 1] = resident(process.pid)
            print(f"step {int(step[1]) + 1}: {found[int(step[1]) + 1] / 2**20:.1f} MB", flush=True)
    if process.wait():
        raise SystemExit("".join(text[-20:]))
    return found


def main(argv: list[str] | None = None) -> int:
    """Run, print, and say how much it grew; 0 if by less than 3 %."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=3000, help="a multiple of 100, over 500")
    options = parser.parse_args(argv)
    if options.steps <= SETTLED or options.steps % 100:
        parser.error("--steps must be a multiple of 100, over 500")
    with tempfile.TemporaryDirectory() as folder:
        data = write_tiles(Path(folder) / "set", train=60, val=8)
        found = measure(data, Path(folder) / "out", options.steps)
    first, last = found[SETTLED], found[options.steps]
    growth = last / first - 1
    print(
        f"resident after step {SETTLED}: {first / 2**20:.1f} MB, after step {options.steps}: {last / 2**20:.1f} MB, "
        f"growth {growth:+.2%}; the most at any log line {max(found.values()) / 2**20:.1f} MB"
    )
    return 0 if growth < 0.03 else 1


if __name__ == "__main__":
    sys.exit(main())
