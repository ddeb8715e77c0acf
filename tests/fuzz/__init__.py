"""Fuzzers: damaged files for every reader. `python -m tests.fuzz.run`, `python -m tests.fuzz.by_coverage`."""
