"""The original releases of weights, by name: `named_weights.csv`.

Checksums are those that public code has of these files (of yolov4-tiny.weights the measured one too); where there is
none, the column is empty. The sizes of Darknet's files follow from the networks, too.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TABLE = Path(__file__).with_suffix(".csv")


@dataclass(frozen=True)
class NamedWeights:
    """A row of the table.

    Attributes:
        name: what options call it.
        network: as of the option of this name.
        classes: number of COCO's classes that it tells apart; 0: it ends before the heads.
        size: in bytes; 0: not known.
        sha256: in hexadecimal digits; empty: not known.
        address: where it was released.
    """

    name: str
    network: str
    classes: int
    size: int
    sha256: str
    address: str


@cache
def named_weights() -> dict[str, NamedWeights]:
    """The table, by name."""
    with _TABLE.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {
        row["name"]: NamedWeights(
            row["name"],
            row["network"],
            int(row["classes"] or 0),
            int(row["bytes"] or 0),
            row["sha256"],
            row["address"],
        )
        for row in rows
    }
