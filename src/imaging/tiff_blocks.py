"""Sizes of the blocks of a TIFF, of its overviews and masks too, before a decoder makes room for them.

A reader decodes a tile or strip as a whole: a file of a few kilobytes can have one of many gigabytes. The directories
are read here alone (TIFF 6.0, section 2; BigTIFF); no pixel is touched.
"""

import os
import struct
from pathlib import Path

from ..base.errors import UserError

LARGEST_BLOCK = 512 << 20  # bytes decoded
_MOST_DIRECTORIES = 1000
_MOST_ENTRIES = 4096
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS = 256, 257, 258, 259, 277, 278
_PLANAR, _TILE_WIDTH, _TILE_LENGTH, _SUB_DIRECTORIES = 284, 322, 323, 330
_WANTED = {
    _WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_LENGTH, _SUB_DIRECTORIES,
}  # fmt: skip
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # whole numbers by TIFF's field type
_UNCOMPRESSED, _SEPARATE = 1, 2


def check_blocks(path: Path) -> None:
    """Refuse a TIFF with a block that decodes to more than `LARGEST_BLOCK` bytes.

    Strips without compression are left out: they are read by line and are as large as the file.

    Raises:
        UserError: such a block, directories that do not end, or no TIFF.
    """
    try:
        with path.open("rb") as handle:
            directories = list(_directories(handle, path))
    except (OSError, struct.error, ValueError) as error:
        raise UserError(f"{path}: not a raster that can be read; copy or convert it again") from error
    for tags in directories:
        size = _block_bytes(tags)
        if size > LARGEST_BLOCK:
            raise UserError(
                f"{path}: a tile or strip of {size:,} bytes, more than {LARGEST_BLOCK:,}; convert it to smaller "
                "tiles (gdal_translate -co TILED=YES)"
            )


def _block_bytes(tags: dict[int, tuple[int, ...]]) -> int:
    def first(tag: int, otherwise: int) -> int:
        return (tags.get(tag) or (otherwise,))[0]

    samples = 1 if first(_PLANAR, 1) == _SEPARATE else first(_SAMPLES, 1)
    if _TILE_WIDTH in tags or _TILE_LENGTH in tags:
        pixels = first(_TILE_WIDTH, 1) * first(_TILE_LENGTH, 1)
    elif first(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED:
        return 0
    else:
        length = first(_LENGTH, 1)
        pixels = first(_WIDTH, 1) * min(length, first(_ROWS, length))
    return pixels * samples * -(-max(tags.get(_BITS) or (1,)) // 8)


def _directories(handle, path: Path):
    """Of each directory, those below others too, the whole numbers of the tags that tell sizes."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = struct.unpack_from(f"{order}H", head, 2)[0] if order and len(head) >= 8 else 0
    if version == 42:
        count_form, entry_form, place_form, start = "H", "HHI4s", "I", 4
    elif version == 43:
        count_form, entry_form, place_form, start = "Q", "HHQ8s", "Q", 8
    else:
        raise ValueError("no TIFF")
    count_form, entry_form, place_form = order + count_form, order + entry_form, order + place_form
    waiting, seen = [struct.unpack_from(place_form, head, start)[0]], set()
    while waiting:
        place = waiting.pop()
        if not place or place in seen or place >= size:
            continue
        seen.add(place)
        if len(seen) > _MOST_DIRECTORIES:
            raise UserError(f"{path}: more than {_MOST_DIRECTORIES} images in one TIFF; convert it again")
        handle.seek(place)
        (count,) = struct.unpack(count_form, handle.read(struct.calcsize(count_form)))
        if count > _MOST_ENTRIES:
            raise ValueError("too many entries")
        entry_bytes = struct.calcsize(entry_form)
        entries = handle.read(count * entry_bytes)
        following = handle.read(struct.calcsize(place_form))
        tags = {}
        for number in range(min(count, len(entries) // entry_bytes)):
            tag, kind, length, value = struct.unpack_from(entry_form, entries, number * entry_bytes)
            if tag in _WANTED and kind in _FORMATS:
                tags[tag] = _values(
                    handle, order + _FORMATS[kind], min(length, _MOST_ENTRIES), value, place_form
                )
        waiting.extend(tags.get(_SUB_DIRECTORIES, ()))
        if len(following) == struct.calcsize(place_form):
            waiting.append(struct.unpack(place_form, following)[0])
        yield tags


def _values(handle, form: str, length: int, value: bytes, place_form: str) -> tuple[int, ...]:
    """Values of an entry: in itself where they fit, else where it says; none where the file ends before."""
    step = struct.calcsize(form)
    if length * step > len(value):
        handle.seek(struct.unpack(place_form, value)[0])
        value = handle.read(length * step)
    length = min(length, len(value) // step)
    return struct.unpack(f"{form[0]}{length}{form[1]}", value[: length * step])
