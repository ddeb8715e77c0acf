"""What every reader of an annotation format gives: images with labelled boxes, in a training and a held-out set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...base.errors import UserError
from ...base.text_file import read_text
from ...imaging.image_io import is_image

DEFAULT_VAL_SHARE = 0.2
SPLITS = ("train", "val")  # as the written data set names them
_SHOWN = 3
T = TypeVar("T")


@dataclass(frozen=True)
class LabelledObject:
    """One object: class name, x1 y1 x2 y2 in pixels of its image, and where it is written, for errors."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    where: str


@dataclass(frozen=True)
class LabelledImage:
    """An image's file, its size in pixels and its objects."""

    path: Path
    width: int
    height: int
    objects: list[LabelledObject]


@dataclass
class LabelledSet:
    """What a reader found.

    Attributes:
        splits: images of `train` and `val`.
        class_names: the names where the format declares them, in its order; None where objects alone name them.
        left_out: how much was left out, by reason.
        notes: what a person should know beside that.
    """

    splits: dict[str, list[LabelledImage]]
    class_names: tuple[str, ...] | None = None
    left_out: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ReadOptions:
    """What a person may say about the set to read.

    Attributes:
        split_names: what the source calls the training and the held-out set (lists or folders).
        val_share: share of images that is held out, drawn by `seed`, instead of the source's own split; None:
            the source's split, and `DEFAULT_VAL_SHARE` where it has none.
        seed: of the draw.
        images: folder of the images where it is not the usual one.
        annotations: folder of the label files where it is not the usual one.
        skip_missing: leave out, and count, images that are labelled but not there; otherwise an error.
        zero_based: VOC coordinates count from 0 and not, as the format has them, from 1.
        names: class names in the order of their numbers, or a file of them (YOLO), or of the DOTA version.
    """

    split_names: tuple[str, str] = SPLITS
    val_share: float | None = None
    seed: int = 1
    images: Path | None = None
    annotations: Path | None = None
    skip_missing: bool = False
    zero_based: bool = False
    names: tuple[str, ...] | Path | None = None


def split_by_share(items: Sequence[T], options: ReadOptions, src: Path) -> dict[str, list[T]]:
    """`items` drawn into train and val by the options' share and seed; each keeps the order of `items`.

    Raises:
        UserError: too few to have one of each.
    """
    share = DEFAULT_VAL_SHARE if options.val_share is None else options.val_share
    if share == 0:
        return {"train": list(items), "val": []}
    if len(items) < 2:
        raise UserError(f"{src}: {len(items)} images cannot be split; add images, or --val_share=0")
    count = min(max(round(len(items) * share), 1), len(items) - 1)
    held_out = set(np.random.default_rng(options.seed).permutation(len(items))[:count].tolist())
    return {
        "train": [item for number, item in enumerate(items) if number not in held_out],
        "val": [item for number, item in enumerate(items) if number in held_out],
    }


def images_below(folder: Path) -> list[Path]:
    """Images of a folder and its sub-folders, by name."""
    return sorted(path for path in folder.rglob("*") if is_image(path))


def read_lines(path: Path, remedy: str = "save it as UTF-8 text") -> list[str]:
    """Lines of a text file.

    Raises:
        UserError: it cannot be read as text.
    """
    try:
        return read_text(path).splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text ({error.reason} at byte {error.start}); {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}; {remedy}") from error


def refuse_missing(missing: list[str], options: ReadOptions, left_out: Counter, src: Path) -> None:
    """Name images that labels or lists speak of and that are not there, or count them under `skip_missing`.

    Raises:
        UserError: there are some, and they are not to be skipped.
    """
    if missing and not options.skip_missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(
            f"{src}: {len(missing)} images or their files are missing: {shown}; add them, or --skip_missing"
        )
    if missing:
        left_out["images that are missing"] += len(missing)


def without_repeats(items: Iterable[T], left_out: Counter) -> list[T]:
    """The items in their order, each once."""
    items = list(items)
    kept = list(dict.fromkeys(items))
    if len(kept) < len(items):
        left_out["images listed twice"] += len(items) - len(kept)
    return kept
