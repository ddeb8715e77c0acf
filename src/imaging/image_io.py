"""Reading an image as 8-bit RGB, or one clear error: nothing is scaled, rotated or filled in silently."""

import mmap
import struct
import threading
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ..base.errors import UserError

MAX_PIXELS = 400_000_000  # a 20,000 x 20,000 scene; more is taken for a decompression bomb
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".tga", ".pcx")
# Larger images than this many pixels, of less than a byte for this many of theirs, are taken for bombs too:
# they would decode to over 250 times their file.
_LARGE_PIXELS, _MOST_PIXELS_A_BYTE = 64_000_000, 80
_PILLOW_FORMATS = ("GIF", "PCX", "TGA")  # decoded by Pillow where OpenCV cannot; GIF only from OpenCV 4.11 on
_ORIENTATION = 0x0112  # TIFF tag
_CHUNK_HEAD = struct.Struct(">I4s")  # of a PNG: length, kind
_pillow_limit = threading.Lock()  # Pillow's own limit of pixels is a global


def is_image(path: Path) -> bool:
    """Whether a file's ending is that of an image that `read_rgb` may read; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def read_rgb(
    path: Path, expected_wh: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The image's stored pixels, (H, W, 3) uint8 RGB; grey and palette are expanded, alpha is dropped.

    An orientation tag is ignored, as in COCO: boxes are given for the stored pixels.

    Args:
        path: a file that OpenCV (JPEG, PNG, TIFF, BMP, ...) or Pillow (GIF, PCX, TGA) can decode.
        expected_wh: width and height that the annotations give, checked before decoding.
        max_pixels: larger images are refused before decoding.

    Raises:
        UserError: unreadable, truncated, too large, not 8-bit, turned by a TIFF tag, or of another size
            than annotated.
    """
    width, height, kind = check_file(path, expected_wh, max_pixels)
    data = np.fromfile(path, dtype=np.uint8)
    if _is_cut_short(data):
        raise UserError(f"{path}: the image is truncated; copy it again or remove it from the annotations")
    image = _decode_by_pillow(path) if kind in _PILLOW_FORMATS else _decode(data)
    if image is None or image.shape[:2] != (height, width):
        raise UserError(f"{path}: the image cannot be decoded; convert it to PNG or JPEG, or remove it")
    if image.dtype != np.uint8:
        raise UserError(f"{path}: {image.dtype} pixels; convert it to 8-bit (the stretch is yours to choose)")
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
    if image.shape[2] != 3:
        raise UserError(f"{path}: {image.shape[2]} channels; choose three of them")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def check_file(
    path: Path, expected_wh: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[int, int, str]:
    """What `read_rgb` checks before it decodes: (width, height, Pillow's name of the format). Arguments as there.

    Raises:
        UserError: no image by its header, too large, empty or of another size than annotated.
    """
    width, height, kind = _read_header(path)
    if width * height > max_pixels:
        raise UserError(f"{path}: {width}x{height} pixels, over the limit of {max_pixels}; cut it into tiles")
    if width * height > _LARGE_PIXELS:
        size = Path(path).stat().st_size
        if width * height > _MOST_PIXELS_A_BYTE * size:
            raise UserError(
                f"{path}: {width}x{height} pixels in a file of {size} bytes: truncated, or a decompression bomb; "
                "copy it again, or cut it into tiles"
            )
    if expected_wh is not None and (width, height) != tuple(expected_wh):
        remedy = "correct the annotation file, or wrong_sizes=repair"
        if (height, width) == tuple(expected_wh):
            remedy = "it fits after a rotation: remove the orientation from the file"
        raise UserError(
            f"{path}: the image is {width}x{height}, its annotation says "
            f"{expected_wh[0]}x{expected_wh[1]}; {remedy}"
        )
    return width, height, kind


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) from the image's header.

    Raises:
        UserError: missing, no image, or turned by a TIFF tag.
    """
    return _read_header(path)[:2]


def _read_header(path: Path) -> tuple[int, int, str]:
    """(width, height, Pillow's name of the format)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such image" if not path.exists() else f"{path}: not a file")
    with _pillow_limit:  # or another thread would take our setting for the one to restore
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # we check the size ourselves
        try:
            with Image.open(path) as header:
                width, height = header.size
                kind = header.format or ""
                turned = isinstance(header, TiffImageFile) and header.tag_v2.get(_ORIENTATION, 1) != 1
        except PermissionError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        except Exception as error:  # damaged headers end in struct.error, KeyError and more, by format
            raise UserError(
                f"{path}: not an image that can be decoded, or no 8-bit one; replace or remove it"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if turned:
        # In other formats decoders leave the pixels as they are stored; in TIFF both turn them.
        raise UserError(f"{path}: an orientation tag turns it against its boxes; save it without the tag")
    return width, height, kind


def _decode(data: np.ndarray) -> np.ndarray | None:
    """Stored pixels by OpenCV (BGR), None where it fails."""
    silence_opencv()
    try:
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _decode_by_pillow(path: Path) -> np.ndarray | None:
    """Pixels (first frame) by Pillow as BGR, None where it fails."""
    try:
        with Image.open(path) as image:
            return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
    except Exception:  # as many kinds of error as formats
        return None


def write_image(path: Path, image: np.ndarray, params: tuple[int, ...] = ()) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the path's ending.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(params))
    try:
        if not ok:
            raise OSError("encoding failed")
        path.write_bytes(data)
    except OSError as error:
        if path.is_file():
            path.unlink()  # half an image
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot be written ({reason}); free disk space or choose another folder"
        ) from error


def _is_cut_short(data: np.ndarray) -> bool:
    """Whether a JPEG or PNG lacks its end; some decoders fill the rest with grey and do not complain."""
    content = memoryview(data)
    head = bytes(content[:8])
    if head.startswith(b"\xff\xd8"):
        # The end marker of a thumbnail in the header does not count: look behind the start of the scan.
        return b"\xff\xd9" not in bytes(content[_scan_start(content) :])
    return head.startswith(b"\x89PNG") and not _has_png_end(content)


def is_truncated(path: Path) -> bool:
    """Whether a JPEG or PNG file lacks its end, of which little more than the end is read (see `_is_cut_short`)."""
    with Path(path).open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] == b"\xff\xd8":
            with memoryview(content) as view:
                start = _scan_start(view)
            return content.rfind(b"\xff\xd9", start) < 0
        with memoryview(content) as view:
            return content[:4] == b"\x89PNG" and not _has_png_end(view)


def _has_png_end(png: memoryview) -> bool:
    """Whether the chunks of a PNG lead to its end chunk within the file.

    A chunk that claims more bytes than the file has is a reason to stop: OpenCV would make room for them, up to 2 GB.
    """
    place = 8
    while place + 12 <= len(png):
        length, kind = _CHUNK_HEAD.unpack_from(png, place)
        if kind == b"IEND":
            return True
        place += 12 + length
    return False


def _scan_start(jpeg: memoryview) -> int:
    """Place of a JPEG's first start-of-scan marker, its length if it has none (ITU T.81, annex B)."""
    place = 2
    while place + 4 <= len(jpeg):
        if jpeg[place] != 0xFF:
            return len(jpeg)
        marker = jpeg[place + 1]
        if marker == 0xDA:
            return place
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # filling, or markers without a body
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return len(jpeg)


def silence_opencv() -> None:
    """No lines of OpenCV's own about a damaged image: the error is one line, ours.

    OpenCV 4 has `cv2.setLogLevel`, OpenCV 5 `cv2.utils.logging`.
    """
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
