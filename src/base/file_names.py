"""Names of output files: one for each input, no two alike, and such as any file system takes."""

import os
from collections.abc import Iterable

# Of a stem, in UTF-8: file systems take 255 a name, and endings and the marks of unfinished files come to it.
LONGEST_STEM = 180


def file_stem(name: str) -> str:
    """A name from outside as the stem of an output's file: valid UTF-8, printable, no separators, of bounded length."""
    text = os.fsencode(name).decode("utf-8", "replace")
    text = "".join(letter if letter.isprintable() and letter not in "/\\" else "_" for letter in text)
    return text.encode()[:LONGEST_STEM].decode("utf-8", "ignore") or "_"


def output_stems(names: Iterable[str]) -> list[str]:
    """A stem for the output of each input, all different, also where a file system takes `A` and `a` for one.

    The first input of a name keeps it; a later one gets a number behind that no input and no other output has.
    """
    stems = [file_stem(name) for name in names]
    taken = {stem.casefold() for stem in stems}
    kept: set[str] = set()
    last: dict[str, int] = {}
    found = []
    for stem in stems:
        key = stem.casefold()
        if key in kept:
            number, free = last.get(key, 1), key
            while free in taken:
                number += 1
                free = f"{key}_{number}"
            last[key] = number
            taken.add(free)
            stem = f"{stem}_{number}"
        kept.add(key)
        found.append(stem)
    return found
