"""A worker of the benchmark: answers one JSON line on stdout for each JSON line on stdin.

The driver (`benchmarks/workers.py`) starts `python -m MODULE '{"case": NAME, ...arguments}'`. When what the case
needs is built, the worker prints `{"info": {...}}`; then `{"run": NAME}` runs one of the case's functions and is
answered by `{"seconds": ..., "processor": ..., "value": ..., "peak": ...}`. What libraries print goes to
standard error. Only the standard library is used: peers run in an environment of their own.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The functions of a case by name, and what is to be said about it. A function's result, if it is a number or a
# list of numbers, goes to the driver.
Case = tuple[dict[str, Callable[[], object]], dict]


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes (`ru_maxrss` would start from the parent's)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def serve(cases: dict[str, Callable[..., Case]]) -> None:
    """Build the case that the command line names and answer until stdin ends."""
    arguments = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    imported = peak_memory()
    runs, info = cases[arguments.pop("case")](**arguments)
    answer(info={**info, "peak_imports": imported, "peak_built": peak_memory()})
    for line in sys.stdin:
        run = runs[json.loads(line)["run"]]
        started, spent = time.perf_counter(), time.process_time()
        value = run()
        seconds, processor = time.perf_counter() - started, time.process_time() - spent
        numbers = value if isinstance(value, list) else [value]
        told = value if all(isinstance(number, int | float) for number in numbers) else None
        answer(seconds=seconds, processor=processor, value=told, peak=peak_memory())
