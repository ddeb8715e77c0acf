"""Coverage-guided search for inputs that a format's reader does not stand: atheris, where it is installed.

    python -m tests.fuzz.by_coverage coco 60         seconds; the pure-Python formats are worth it

Inputs that reach new lines are kept and varied further. It ends at the first failure, whose input is kept in
fuzz-failed.*, or when the time is over.
"""

import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import atheris

OURS = ["src"]
with atheris.instrument_imports(include=OURS):
    from tests.fuzz.run import FORMATS, judge


def main() -> None:
    """Search in one format and say what came of it."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    kind, folder = FORMATS[name], Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    with atheris.instrument_imports(include=OURS):  # the readers are imported where they are used
        for number, data in enumerate(kind.seeds(folder)):
            (corpus / str(number)).write_bytes(data)
        read = kind.reader(folder)
    counts: Counter = Counter()
    started = time.monotonic()

    def one(data: bytes) -> None:
        outcome, what = judge(kind, read, folder, data)
        counts[outcome] += 1
        if outcome == "failed":
            Path(f"fuzz-failed{kind.suffix}").write_bytes(data)
        if outcome == "failed" or time.monotonic() - started > seconds:
            print(
                f"{name}: {dict(counts)}, {len(list(corpus.iterdir()))} inputs in the corpus; {what}",
                flush=True,
            )
            os._exit(outcome == "failed")

    atheris.Setup([sys.argv[0], str(corpus), "-max_len=20000", "-timeout=30", "-rss_limit_mb=0"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
