"""Text files from elsewhere: regular files of a bounded size, text to their end."""

from pathlib import Path

MOST_BYTES = 1 << 30  # the largest annotation files are of half that
_BLOCK = 1 << 20


def read_text(path: str | Path, most: int = MOST_BYTES, errors: str = "strict") -> str:
    """A file as text in UTF-8, with or without a byte order mark; `errors` as of `bytes.decode`.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file (a pipe would be waited for), larger than `most` bytes, or no text; the message is
            one line. A NUL, which no UTF-8 text has, ends the reading: the holes of a sparse file take no memory.
    """
    return read_text_bytes(path, most).decode("utf-8-sig", errors)


def read_text_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """As `read_text`, for parsers that find the encoding themselves: UTF-16 by its mark is taken too.

    Raises:
        OSError, ValueError: see `read_text`.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    parts, size, wide = [], 0, False
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            size += len(block)
            if size > most:
                raise ValueError(f"larger than {most} bytes")
            wide = wide or (not parts and block.startswith((b"\xff\xfe", b"\xfe\xff")))
            if b"\0" in block and not (wide and block.strip(b"\0")):
                raise ValueError(f"not text (a NUL at byte {size - len(block) + block.index(0)})")
            parts.append(block)
    return b"".join(parts)
