"""Speed and memory against named peers, side by side on this machine: one table, and a JSON file.

    bash benchmarks/peers/install.sh                  # once: the peers, in an environment of their own
    python -m benchmarks.speed [--quick] [--only forward,train] [--out FILE.json]

Every row runs its systems in turn (A B C A B C ...), each in a process of its own with two threads, and gives
medians; the ratio is the median of neighbouring runs' ratios. `--quick` takes a slim network of a quarter of the
channels on small inputs and leaves out the rows that need many steps: its ratios are not those of the full network.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe_machine, load_average
from benchmarks.rows import FULL, QUICK, Bench, Plan
from benchmarks.table import Row, plain, table
from benchmarks.workers import PEERS_PYTHON
from src.base.atomic import write_json


def run(plan: Plan, keys: list[str], folder: Path) -> tuple[list[Row], dict]:
    """The rows of the keys, printed as they come, and the details of all runs."""
    bench, rows = Bench(plan, folder), []
    for key in keys:
        started = time.perf_counter()
        rows_of: Callable[[], Iterator[Row]] = getattr(bench, key)
        for row in rows_of():
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
        bench.details[f"{key}: seconds in all"] = time.perf_counter() - started
    return rows, bench.details


def main(argv: list[str] | None = None) -> int:
    """Print the table; 0 if every goal is met, 1 if not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="slim network, small inputs, fewer rows: 3 minutes"
    )
    parser.add_argument("--only", default="", help=f"rows, separated by commas: {', '.join(Bench.KEYS)}")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    parsed = parser.parse_args(argv)
    if not PEERS_PYTHON.exists():
        parser.error("the peers are not installed: bash benchmarks/peers/install.sh")
    plan = QUICK if parsed.quick else FULL
    keys = parsed.only.split(",") if parsed.only else [key for key in Bench.KEYS if key not in plan.left_out]
    if unknown := set(keys) - set(Bench.KEYS):
        parser.error(f"--only: no rows called {', '.join(sorted(unknown))}")
    machine = describe_machine(PEERS_PYTHON)
    print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start']}", flush=True)
    if parsed.quick:
        print("QUICK: slim network, small inputs; left out: " + ", ".join(plan.left_out), flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        rows, details = run(plan, keys, Path(folder))
    machine["load_at_end"] = load_average()
    print(
        f"\n{table(rows)}\n\n{time.perf_counter() - started:.0f} s in all, load at the end {machine['load_at_end']}"
    )
    if parsed.out:
        document = {
            "machine": machine,
            "quick": parsed.quick,
            "plan": asdict(plan),
            "rows": [{**asdict(row), "met": row.met} for row in rows],
            "details": details,
        }
        write_json(parsed.out, plain(document), indent=1)
    return 1 if any(row.met == "no" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
