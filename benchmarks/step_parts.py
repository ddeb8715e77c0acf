"""Where the time and the memory of a training step are: the step with one kind of layer after the other.

    python -m benchmarks.step_parts [--quick] [--size 416] [--out FILE.json]

Each line is a process of its own: the convolutions alone forward and backward, then with BatchNorm, with activations,
with the loss and with the optimizer, which is the whole step. A part's share is the difference to the line before.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.scaling import FULL, MEGABYTE, SLIM, write_batch
from benchmarks.workers import Worker
from src.base.atomic import write_json

PARTS = ("convolutions", "batchnorm", "activation", "loss", "optimizer")


def main(argv: list[str] | None = None) -> int:
    """Print the lines and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a slim network at 96")
    parser.add_argument("--size", type=int, default=416, help="side of the input")
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    options = parser.parse_args(argv)
    network, size = (SLIM, 96) if options.quick else (FULL, options.size)
    rows, before = [], 0.0
    print("| with | first run s | run s | more s | peak memory MB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="parts-") as folder:
        data = Path(folder) / "batch.npz"
        write_batch(data, 2, size, network["classes"])
        for number, name in enumerate(PARTS):
            with Worker(
                "benchmarks.ours", "parts", size=size, data=str(data), parts=PARTS[1 : number + 1], **network
            ) as worker:
                first = worker.run("run")
                results = [worker.run("run") for _ in range(6)][1:]
            seconds = statistics.median(result["seconds"] for result in results)
            first, more, memory = first["seconds"], seconds - before, results[-1]["peak"] / MEGABYTE
            rows.append({"part": name, "first": first, "seconds": seconds, "more": more, "memory_mb": memory})
            before = seconds
            print(f"| {name} | {first:.1f} | {seconds:.2f} | {more:.2f} | {memory:.0f} |", flush=True)
    if options.out:
        write_json(options.out, {"machine": describe_machine(), "size": size, "rows": rows}, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
