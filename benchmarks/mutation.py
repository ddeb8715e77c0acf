"""Mutation testing of the numerics: how many small faults, put in at random places, do the tests notice?

    pip install cosmic-ray
    python -m benchmarks.mutation --out FOLDER [--sample 60] [--only loss,targets]

cosmic-ray makes the mutants (another operator, comparison, number or condition) and runs a module's tests on each in
a clone of the last commit. Mutations that any run would notice (a shift or bit operator among floats) and those that
change no result (an annotation, a decorator, how much is done at once) are left out, so that they do not blur the
score.
Of the rest a random sample is taken, by seed. The table and the survivors' diffs are printed and written to
FOLDER/mutation.json.
"""

import argparse
import ast
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Module: its tests, the quickest first.
TARGETS = {
    "src/lr_scheduler.py": ["tests/test_lr_scheduler.py"],
    "src/evaluation/coco_metrics.py": ["tests/test_coco_metrics.py", "tests/test_analysis.py"],
    "src/evaluation/matching.py": ["tests/test_coco_metrics.py", "tests/test_dota_metrics.py"],
    "src/evaluation/dota_metrics.py": ["tests/test_dota_metrics.py"],
    "src/detect/postprocess.py": ["tests/test_postprocess.py"],
    "src/layers/box_overlap.py": ["tests/test_box_overlap.py"],
    "src/targets.py": ["tests/test_targets.py"],
    "src/loss.py": ["tests/test_loss.py"],
}
PIECES = ("_ELEMENTS_AT_ONCE", "MASK_PIECE")  # how much is done at once: speed and memory alone
CONFIG = """\
[cosmic-ray]
module-path = "{module}"
timeout = {timeout}
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""
LEFT_OUT = re.compile(
    r"Replace(Binary|Unary)Operator_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(RShift|LShift|Bit\w+)$"
    r"|ReplaceComparisonOperator_\w+_Is(Not)?$|ReplaceUnaryOperator_\w+_Invert$|RemoveDecorator$"
    r"|VariableReplacer$|VariableInserter$"
)


def without_behaviour(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and end (row, column) of annotations, decorators and sizes of pieces: a mutant there changes no result."""
    found = []
    for node in ast.walk(ast.parse(source)):
        places = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        places += getattr(node, "decorator_list", [])
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in PIECES:
            places.append(node.value)
        found += [
            ((place.lineno, place.col_offset), (place.end_lineno, place.end_col_offset))
            for place in places
            if place is not None
        ]
    return found


def choose(session: Path, source: str, sample: int, seed: int) -> int:
    """Leave a sample of a session's mutants to be run; the number of those that it was taken from."""
    skipped = without_behaviour(source)
    with sqlite3.connect(session) as database:
        rows = database.execute(
            "select job_id, operator_name, start_pos_row, start_pos_col from mutation_specs order by"
            " start_pos_row, start_pos_col, operator_name, occurrence"
        ).fetchall()
        jobs = [
            job
            for job, operator, row, column in rows
            if not LEFT_OUT.search(operator) and not any(a <= (row, column) < b for a, b in skipped)
        ]
        kept = set(random.Random(seed).sample(jobs, min(sample, len(jobs))))
        for job, *_ in rows:
            if job not in kept:
                database.execute("delete from mutation_specs where job_id = ?", (job,))
                database.execute("delete from work_items where job_id = ?", (job,))
    return len(jobs)


def test_module(module: str, clone: Path, out: Path, options: argparse.Namespace) -> dict:
    """Make, choose and run the mutants of a module."""
    name = Path(module).stem
    session, config = out / f"{name}.sqlite", out / f"{name}.toml"
    config.write_text(
        CONFIG.format(
            module=module, timeout=options.timeout, python=sys.executable, tests=" ".join(TARGETS[module])
        )
    )
    tool = options.cosmic_ray
    if not session.is_file():
        subprocess.run([tool, "init", config, session], cwd=clone, check=True)
        possible = choose(session, (clone / module).read_text(), options.sample, options.seed)
        (out / f"{name}.count").write_text(str(possible))
    subprocess.run([tool, "exec", config, session], cwd=clone, check=True)
    subprocess.run(["git", "checkout", "--", "."], cwd=clone, check=True)
    with sqlite3.connect(session) as database:
        results = database.execute("select test_outcome, diff from work_results").fetchall()
    outcomes = [outcome.upper() for outcome, _ in results]
    survivors = [diff for outcome, diff in results if outcome.upper() == "SURVIVED"]
    return {
        "module": module,
        "mutants": int((out / f"{name}.count").read_text()),
        "tried": len(outcomes),
        "killed": len(outcomes) - len(survivors),
        "survivors": survivors,
    }


def main() -> None:
    """Run the modules that are asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of sessions; a second call goes on")
    parser.add_argument("--sample", type=int, default=60, help="mutants a module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600, help="seconds; a longer run counts as noticed")
    parser.add_argument("--only", default="", help="names of modules, separated by commas")
    parser.add_argument("--cosmic-ray", default=shutil.which("cosmic-ray") or "cosmic-ray")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    clone = out / "clone"
    if not clone.is_dir():
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    wanted = options.only.split(",") if options.only else [Path(module).stem for module in TARGETS]
    results = []
    for module in TARGETS:
        if Path(module).stem in wanted:
            result = test_module(module, clone, out, options)
            results.append(result)
            print(
                f"{module:<34} {result['mutants']:>4} mutants, {result['tried']:>3} tried,"
                f" {result['killed']:>3} killed: {result['killed'] / result['tried']:.0%}", flush=True,
            )  # fmt: skip
    (out / "mutation.json").write_text(json.dumps(results, indent=1))
    for result in results:
        for diff in result["survivors"]:
            print(f"\nsurvived:\n{diff}")
    tried, killed = (sum(result[key] for result in results) for key in ("tried", "killed"))
    print(f"\nin all {killed} of {tried} killed: {killed / tried:.1%}")


if __name__ == "__main__":
    main()
