"""Files that are whole or not there: written beside their place, synced, renamed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path to write a file at; it gets its name only when the block ends well.

    Raises:
        UserError: the disk is full or the folder cannot be written to; what was there stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.writing")
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
    """A text file (or one of bytes) to write to; it appears only when the block ends well (see `atomic_path`)."""
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    with atomic_path(path) as temporary, temporary.open(mode, encoding=encoding) as handle:
        yield handle


def write_json(path: Path, document, indent: int | None = None) -> None:
    """Write a document as JSON, whole or not at all (UserError as of `atomic_write`)."""
    with atomic_write(path) as handle:
        handle.write(
            json.dumps(document, indent=indent)
        )  # json.dump writes piece by piece, five times as long
        handle.write("\n")
