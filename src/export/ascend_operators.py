"""Which of Ascend's tools would refuse which operator of an ONNX file, by the table in `ascend_operators.csv`."""

import csv
from pathlib import Path

from ..base.errors import UserError, first_line
from ..logger import get_logger

_TABLE = Path(__file__).with_name("ascend_operators.csv")
# Tools by their column of the table, and those that a card's users have (docs/ascend_export.md).
_TOOLS = {
    "atc_5.0": "ATC of CANN 5.0",
    "atc_8.0": "ATC of CANN 8.0",
    "ort_cann": "ONNX Runtime's CANN provider",
    "lite_2.0": "MindSpore Lite 2.0.0",
    "fixed_size": "an .om, whose outputs have fixed sizes,",
}
_OF_CARD = {
    "310": ("atc_5.0", "atc_8.0", "lite_2.0", "fixed_size"),
    "310P": ("atc_8.0", "ort_cann", "lite_2.0", "fixed_size"),
    "310B": ("atc_8.0", "ort_cann", "fixed_size"),
    "910": ("atc_8.0", "ort_cann", "lite_2.0", "fixed_size"),
    "910B": ("atc_8.0", "ort_cann", "fixed_size"),
}


def operators_of(path: Path) -> set[str]:
    """Names of a file's operators, those of its loops' bodies too.

    Raises:
        UserError: no ONNX file, or the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError("check_ascend: ONNX needs a package; pip install onnx") from error
    if not path.is_file():
        raise UserError(f"check_ascend: {path}: no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise UserError(f"check_ascend: {path}: not a readable ONNX model ({first_line(error)})") from error
    names, graphs = set(), [model.graph]
    while graphs:
        for node in graphs.pop().node:
            names.add(node.op_type)
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
    if not names:
        raise UserError(f"check_ascend: {path}: has no operators")
    return names


def refused_operators(names: set[str]) -> dict[str, list[str]]:
    """Operators, sorted, that a tool does not take, by the tool's column of the table."""
    with _TABLE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    known = {row["operator"]: row for row in rows}
    return {tool: sorted(name for name in names if known.get(name, {}).get(tool) != "yes") for tool in _TOOLS}


def report_operators(path: Path, card: str = "") -> bool:
    """Log, for a card or for all, which tool refuses which operators of a file; whether any does (UserError)."""
    refused = refused_operators(operators_of(path))
    cards = [card] if card else list(_OF_CARD)
    for name in cards:
        found = [
            f"{_TOOLS[tool]} does not take {', '.join(refused[tool])}"
            for tool in _OF_CARD[name]
            if refused[tool]
        ]
        get_logger().info(
            "%s on Ascend %s: %s", path, name, "; ".join(found) or "every tool takes its operators"
        )
    return any(refused[tool] for name in cards for tool in _OF_CARD[name])
