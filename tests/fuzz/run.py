"""Hostile inputs for every format that is read: each gives success or one clear line, never anything else.

    python -m tests.fuzz.run                          5,000 variants of good files, a table of the outcome
    python -m tests.fuzz.run --count=300 --formats=coco,zip

Each format is read in a process of its own, so that a crash in a native library is seen and counted, with
limits: 5 s of processor time and 1 GB an input. Besides, what is read must make sense: finite boxes of
positive size inside their image, pixels as the header says, nothing unpacked outside its folder. The inputs
follow from the seed alone; `--keep=FOLDER` keeps those that failed.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.runtime.device import prepare_environment

prepare_environment()

from src.base.errors import UserError  # noqa: E402
from tests.fuzz.formats import FORMATS, Format, NotInstalledError  # noqa: E402
from tests.fuzz.mutations import mutated  # noqa: E402

SECONDS, CLOCK, MEMORY = 5.0, 60.0, 1 << 30  # processor time, clock (the machine may be busy), bytes an input
LONGEST_LINE = 1500


def main() -> int:
    """Feed the formats and print the table; exit code 1 where an input failed."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--count", type=int, default=5000, help="inputs, shared out among the formats")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, separated by commas")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    parser.add_argument("--worker", nargs=3, metavar=("FORMAT", "FIRST", "END"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args.worker[0], int(args.worker[1]), int(args.worker[2]), args.seed)
    names = args.formats.split(",")
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        parser.error(f"--formats: {', '.join(unknown)} is not one of {', '.join(FORMATS)}")
    weights = sum(FORMATS[name].weight for name in names)
    print(f"{'format':<14}{'inputs':>8}{'read':>8}{'refused':>9}{'failed':>8}{'slowest s':>11}{'most MB':>9}")
    totals, failures = Counter(), []
    for name in names:
        count = max(1, round(args.count * FORMATS[name].weight / weights))
        counts, failed = feed(name, count, args)
        totals.update({key: counts[key] for key in ("inputs", "read", "refused", "failed")})
        failures += failed
        if counts["absent"]:
            print(f"{name:<14} left out: {failed.pop() if failed else 'not installed'}", flush=True)
            failures = failures[: len(failures) - 1]
            continue
        print(
            f"{name:<14}{counts['inputs']:>8}{counts['read']:>8}{counts['refused']:>9}{counts['failed']:>8}"
            f"{counts['slowest']:>11.2f}{counts['memory'] / 2**20:>9.0f}",
            flush=True,
        )
    print(
        f"{'together':<14}{totals['inputs']:>8}{totals['read']:>8}{totals['refused']:>9}{totals['failed']:>8}"
    )
    for line, number in Counter(failures).most_common():
        print(f"{number} times {line}")
    return 1 if failures else 0


def feed(name: str, count: int, args) -> tuple[Counter, list[str]]:
    """Run `count` inputs of a format in workers; a worker that dies or hangs is replaced."""
    counts, failures, place = Counter(), [], 0
    while place < count:
        words = ["--worker", name, str(place), str(count), f"--seed={args.seed}"]
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.run", *words],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        ended, started = False, False
        while True:
            limit = CLOCK if started else 300
            line = worker.stdout.readline() if select.select([worker.stdout], [], [], limit)[0] else None
            if not line:
                break
            if not line.startswith(b"@"):
                continue  # a library prints
            event = json.loads(line[1:])
            started = True
            if "absent" in event:
                counts["absent"], ended = 1, True
                failures.append(event["absent"])
                place = count
            elif "end" in event:
                ended, place = True, count
            else:
                place = event["number"] + 1
                counts["inputs"] += event.get("inputs", 1)
                counts[event["outcome"]] += event.get("inputs", 1)
                counts["slowest"] = max(counts["slowest"], event["seconds"])
                counts["memory"] = max(counts["memory"], event["memory"])
                if event["outcome"] == "failed":
                    failures.append(f"{name}: {event['what']}")
                    keep(args, name, event["number"])
        hung = not ended and worker.poll() is None and line is None
        if hung:
            worker.kill()
        worker.wait()
        if not ended:
            counts["inputs"] += 1
            counts["failed"] += 1
            failures.append(f"{name}: hangs" if hung else f"{name}: the process dies ({worker.returncode})")
            keep(args, name, place)
            place += 1
    return counts, failures


def keep(args, name: str, number: int) -> None:
    """Write an input that failed where a person can look at it."""
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
        target = args.keep / f"{name}-{args.seed}-{number}{FORMATS[name].suffix}"
        with tempfile.TemporaryDirectory() as folder:
            target.write_bytes(
                variant(FORMATS[name], FORMATS[name].seeds(Path(folder)), args.seed, number, name)
            )


def variant(kind: Format, seeds: list[bytes], seed: int, number: int, name: str) -> bytes:
    """The input of a number: the good files first, then their variants."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed}-{name}-{number}")
    return (kind.mutate or mutated)(rng.choice(seeds), seeds, rng)


def work(name: str, first: int, end: int, seed: int) -> int:
    """What a worker does: each input in turn, one line on each."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print

    def say(**event) -> None:
        answers.write("@" + json.dumps(event) + "\n")

    kind = FORMATS[name]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        try:
            seeds = kind.seeds(folder)
            read = kind.reader(folder)
        except NotInstalledError as error:
            say(absent=str(error))
            return 0
        warnings.simplefilter("error", RuntimeWarning)
        for data in seeds:  # what libraries load at their first use counts for none of the inputs
            judge(kind, read, folder, data)
        limit_memory()
        for number in range(first, end):
            data = variant(kind, seeds, seed, number, name)
            base, started = forget_peak(), time.process_time()
            outcome, what = judge(kind, read, folder, data)
            seconds, memory = time.process_time() - started, max(0, peak() - base)
            if outcome != "failed" and number < len(seeds) and outcome != "read":
                outcome, what = "failed", f"a good file is refused: {what}"
            if outcome != "failed" and (seconds > SECONDS or memory > MEMORY):
                outcome, what = "failed", f"takes {seconds:.1f} s and {memory >> 20} MB"
            say(number=number, outcome=outcome, what=what, seconds=seconds, memory=memory)
        say(end=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def judge(kind: Format, read, folder: Path, data: bytes) -> tuple[str, str]:
    """`read`, `refused` or `failed`, and what was said."""
    path = folder / f"input{kind.suffix}"
    path.write_bytes(data)
    try:
        read(path)
    except UserError as error:
        text = str(error)
        if "\n" in text or "\r" in text or len(text) > LONGEST_LINE:
            return "failed", f"its message is no line: {text[:60]!r}... of {len(text)} letters"
        return "refused", text
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/src/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the check"
        return "failed", f"{type(error).__name__} in {where}: {' '.join(str(error).split())[:100]}"
    return "read", ""


def peak() -> int:
    """The most memory that this process has held since `forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> int:
    """Measure `peak` from now on; what is held now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def limit_memory() -> None:
    """Let this process have 3 GB more of addresses than now."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (size + 3 * MEMORY, size + 3 * MEMORY))


if __name__ == "__main__":
    sys.exit(main())
