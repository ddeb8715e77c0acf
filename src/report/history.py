"""The epochs of a run as a table, `results.csv`: one row an epoch, whole at any moment.

The file is written anew and renamed for each change (a row is some hundred bytes), so a kill leaves the old or the
new table, never half a row. A row is known by its epoch, so an epoch that is trained again replaces its row.
"""

import csv
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..base.atomic import atomic_write
from ..base.errors import UserError, shown
from ..base.text_file import read_text

FILE_NAME = "results.csv"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class EpochRow:
    """One epoch: means over its steps of the loss and its parts, and what came of it.

    lr is the rate of the last step; ap (IoU 0.5..0.95) and ap50 are NaN where the epoch was not evaluated;
    pictures_per_second and seconds are of training alone, evaluation left out.
    """

    epoch: int
    step: int
    loss: float
    box: float
    objectness: float
    class_loss: float
    lr: float
    ap: float
    ap50: float
    pictures_per_second: float
    seconds: float


COLUMNS = tuple("class" if field.name == "class_loss" else field.name for field in fields(EpochRow))


def read_history(path: Path) -> list[EpochRow]:
    """The rows of a `results.csv`, none where there is no file.

    Raises:
        UserError: the file is damaged or not such a table.
    """
    if not path.is_file():
        return []
    try:
        lines = list(csv.reader(read_text(path, _MOST_BYTES).splitlines()))
        if tuple(lines[0]) != COLUMNS:
            raise ValueError("other columns")
        return [_row(line) for line in lines[1:]]
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise UserError(
            f"{path}: not a table of epochs ({shown(error)}); move it away to start a new one"
        ) from error


def _row(line: list[str]) -> EpochRow:
    if len(line) != len(COLUMNS):
        raise ValueError(f"{len(line)} values in a row")
    return EpochRow(int(line[0]), int(line[1]), *(float(value) if value else math.nan for value in line[2:]))


def write_history(path: Path, rows: list[EpochRow]) -> None:
    """Write the table, whole or not at all; what is not known is left empty."""
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([_shown(value) for value in asdict(row).values()])


def _shown(value: float) -> str:
    return "" if math.isnan(value) else str(value) if isinstance(value, int) else f"{value:.9g}"


def with_row(rows: list[EpochRow], row: EpochRow) -> list[EpochRow]:
    """The rows with one more, in the place of an earlier one of the same epoch."""
    return sorted([*(old for old in rows if old.epoch != row.epoch), row], key=lambda each: each.epoch)
