"""Every operator of the training steps and of inference, in the graph that MindSpore makes of them on any machine.

`tests/fixtures/operators.csv` lists each (primitive, types) with what is known of it on Ascend: a new one fails here
by name, and wants a look at CANN's operator lists before it gets a line.
"""

import csv
import os
import re
import subprocess
import sys

import pytest

from tests import ROOT

NODE = re.compile(r"^  %\w+\([^)]*\) = (?:PrimFunc_)?(\w+)\(")
TYPE = re.compile(r"Tensor\[(\w+)\]")
# What holds a graph together and runs nothing.
STRUCTURE = {"Depend", "Load", "MakeTuple", "TupleGetItem", "UpdateState", "make_list"}
GRAPHS = ["inference", "step", "mixed"]


def operators(ir: str) -> set[tuple[str, str]]:
    """(primitive, types of its tensors) of the nodes of a graph's text."""
    lines, found = ir.splitlines(), set()
    for number, line in enumerate(lines):
        if match := NODE.match(line):
            types = sorted({name.lower() for name in TYPE.findall(lines[number + 1])})
            if match[1] not in STRUCTURE and types:  # without tensors it is a number, known when compiled
                found.add((match[1], " ".join(types)))
    return found


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The text of each graph, and what MindSpore said while it was made."""
    out = tmp_path_factory.mktemp("graphs")
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "compiled_graphs.py", out, *GRAPHS],
        capture_output=True, text=True, check=False, timeout=900, env={**os.environ, "GLOG_v": "2"}, cwd=out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    texts = {name: [path.read_text() for path in (out / name).glob("*_validate_*.ir")] for name in GRAPHS}
    assert all(texts.values()), texts
    return texts, done.stdout + done.stderr


def test_graphs_run_straight_through(compiled):
    """One graph without branches or loops; GE: "The ge_backend do not support control flow"."""
    for name, texts in compiled[0].items():
        for text in texts:
            assert len(re.findall(r"^subgraph @", text, re.M)) == 1, name
            assert not {"Switch", "SwitchLayer", "Partial", "Call"} & {
                found for found, _ in operators(text)
            }, name


def test_operators_are_those_of_the_table(compiled):
    with (ROOT / "tests" / "fixtures" / "operators.csv").open(encoding="utf-8") as file:
        table = {(row["primitive"], row["types"]): row for row in csv.DictReader(file)}
    found = {name: set().union(*map(operators, texts)) for name, texts in compiled[0].items()}
    assert len(found["step"]) > 60 and len(found["inference"]) > 15
    for name, pairs in found.items():
        assert not [pair for pair in pairs if "float64" in pair[1] or "complex" in pair[1]], name
        assert sorted(pairs - set(table)) == [], f"{name}: not in tests/fixtures/operators.csv"
        rows = [table[pair] for pair in pairs]
        assert [row["primitive"] for row in rows if row["AICPU"] != "no" or row["deprecated"] != "no"] == []
        cards = ("910", "910B", "310P") if name == "inference" else ("910", "910B")
        lacking = [(row["primitive"], card) for row in rows for card in cards if row[card] == "no"]
        assert lacking == [], name


def test_no_operator_is_deprecated(compiled):
    """MindSpore names classes that are; nn.Adam makes one that it does not use here."""
    texts, said = compiled
    deprecated = set(re.findall(r"'(\w+)' is deprecated", said))
    used = {name for found in texts.values() for text in found for name, _ in operators(text)}
    assert len(used) > 60 and not deprecated & used
