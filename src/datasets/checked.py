"""The usable part of a data set that was looked through."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class CheckedImage:
    """A usable entry of `images`; boxes are rows x1 y1 x2 y2 class in pixels of the image."""

    id: int
    path: Path
    width: int
    height: int
    boxes: list[tuple] = field(default_factory=list)
    ignored: int = 0
    content: str = ""  # of those alone whose length (or pixels) another image may share


@dataclass
class CheckedSet:
    """The usable part of an annotation file."""

    split: str
    folder: Path
    ann_file: Path
    labels: tuple[str, ...]
    images: list[CheckedImage]
