"""DOTA's label files: reading and writing `labelTxt`, oriented boxes made horizontal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write
from ..base.errors import UserError, shown
from ..base.text_file import read_text

_FURTHEST = 10_000_000  # pixels; DOTA's largest scene has 29,200
# In the order of the published checkpoint's outputs, which carries no names.
CLASSES_V1_0 = (
    "plane", "baseball-diamond", "bridge", "ground-track-field", "small-vehicle", "large-vehicle", "ship",
    "tennis-court", "basketball-court", "storage-tank", "soccer-ball-field", "roundabout", "harbor",
    "swimming-pool", "helicopter",
)  # fmt: skip
CLASSES_V1_5 = (*CLASSES_V1_0, "container-crane")
CLASSES_V2_0 = (*CLASSES_V1_5, "airport", "helipad")
CLASSES = {"1.0": CLASSES_V1_0, "1.5": CLASSES_V1_5, "2.0": CLASSES_V2_0}


@dataclass(frozen=True)
class DotaObject:
    """One object: its outline (4, 2) float64 in scene pixels, class name and the `difficult` flag."""

    polygon: np.ndarray
    name: str
    difficult: bool

    @property
    def box(self) -> np.ndarray:
        """The horizontal box (4,) x1 y1 x2 y2 around the outline."""
        return object_boxes([self])[0]


def object_boxes(objects: Sequence[DotaObject]) -> np.ndarray:
    """(N, 4) float64 x1 y1 x2 y2: the horizontal boxes around the objects' outlines."""
    if not objects:
        return np.empty((0, 4))
    outlines = np.stack([entry.polygon for entry in objects])
    return np.concatenate([outlines.min(axis=1), outlines.max(axis=1)], axis=1)


def read_labels(path: Path, class_names: tuple[str, ...] | None) -> list[DotaObject]:
    """The objects of a label file, of any DOTA version; `class_names` None takes every class.

    A line is `x1 y1 x2 y2 x3 y3 x4 y4 class difficult`, or `x1 y1 x2 y2 class difficult` for horizontal
    boxes; `difficult` may be missing. `imagesource:` and `gsd:` lines are skipped.

    Raises:
        UserError: an unreadable file, or a line that is not of this form; names file and line.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from error
    objects = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or ":" in words[0]:
            continue
        objects.append(_parse(words, class_names, f"{path}:{number}"))
    return objects


def _parse(words: list[str], class_names, where: str) -> DotaObject:
    values = _leading_numbers(words)
    numbers = len(values)
    if numbers not in (4, 8) or not 1 <= len(words) - numbers <= 2:
        raise UserError(
            f"{where}: expected 8 coordinates (or 4), a class and difficult, found {' '.join(words)[:80]!r}"
        )
    name = words[numbers]
    if class_names is not None and name not in class_names:
        raise UserError(
            f"{where}: class {shown(repr(name))} is not one of {', '.join(class_names)}; choose the --version of "
            "the labels"
        )
    flag = words[numbers + 1] if len(words) > numbers + 1 else "0"
    if flag not in ("0", "1", "2"):  # 2 occurs in v1.5: very small
        raise UserError(f"{where}: difficult is {shown(repr(flag))}, expected 0 or 1")
    if not all(abs(value) <= _FURTHEST for value in values):  # not finite fails too
        raise UserError(f"{where}: a coordinate is not finite, or over {_FURTHEST} pixels; correct the line")
    if numbers == 4:
        x1, y1, x2, y2 = values
        values = [x1, y1, x2, y1, x2, y2, x1, y2]
    return DotaObject(np.array(values).reshape(4, 2), name, flag != "0")


def _leading_numbers(words: list[str]) -> list[float]:
    values: list[float] = []
    for word in words:
        try:
            values.append(float(word))
        except ValueError:
            break
    return values


def write_labels(
    path: Path, objects: list[DotaObject], gsd: float | None = None, source: str = "drawn"
) -> None:
    """Write a label file as DOTA has them."""
    lines = [f"imagesource:{source}", f"gsd:{gsd if gsd is not None and math.isfinite(gsd) else 'null'}"]
    for entry in objects:
        coordinates = " ".join(f"{value:.1f}" for value in entry.polygon.reshape(-1))
        lines.append(f"{coordinates} {entry.name} {int(entry.difficult)}")
    with atomic_write(path) as handle:
        handle.write("\n".join(lines) + "\n")
