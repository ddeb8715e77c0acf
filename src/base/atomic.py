"""Files that are whole or not there: written beside their place, synced, renamed."""

import json
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import UserError

_LONGEST_STEM = 200  # bytes of a name that marks are put around: file systems take 255


def unfinished_name(path: Path, ending: str = "") -> Path:
    """A hidden name beside a file's for what is not whole yet; random, so that no two writers share it."""
    stem = os.fsdecode(os.fsencode(path.name)[:_LONGEST_STEM])
    return path.with_name(f".{stem}.{secrets.token_hex(4)}.writing{ending}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write a file at; it gets its name only when the block ends well.

    Raises:
        UserError: the disk is full or the folder cannot be written to; what was there stays.
    """
    path = Path(path)
    temporary = unfinished_name(path)
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be written ({reason}); free disk space there or choose another folder"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(path: Path, binary: bool = False) -> Iterator[IO]:
    """A text file (or one of bytes) to write to; it appears only when the block ends well (see `atomic_path`).

    The text is UTF-8; names of files that are not are written with the bytes that they have on the disk.
    """
    mode, encoding, errors = ("wb", None, None) if binary else ("w", "utf-8", "surrogateescape")
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding, errors=errors) as handle:
        yield handle


def _finite(value):
    """A document with null for the numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, document, indent: int | None = None) -> None:
    """Write a document as JSON, whole or not at all (UserError as of `atomic_write`)."""
    with atomic_write(path) as handle:
        # json.dump writes piece by piece, five times as long.
        try:
            handle.write(json.dumps(document, indent=indent, allow_nan=False))
        except ValueError:  # JSON has no such numbers
            handle.write(json.dumps(_finite(document), indent=indent, allow_nan=False))
        handle.write("\n")
