"""Reading a picture as 8-bit RGB, or one clear error: nothing is scaled, rotated or filled in silently."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from src.errors import UserError

MAX_PIXELS = 400_000_000  # a 20,000 x 20,000 scene; more is taken for a decompression bomb


def read_rgb(
    path: Path, expected_wh: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """The picture's stored pixels, (H, W, 3) uint8 RGB; grey and palette are expanded, alpha is dropped.

    An orientation tag is ignored, as in COCO: boxes are given for the stored pixels.

    Args:
        path: a file that OpenCV can decode (JPEG, PNG, TIFF, BMP, ...).
        expected_wh: width and height that the annotations give, checked before decoding.
        max_pixels: larger pictures are refused before decoding.

    Raises:
        UserError: unreadable, truncated, too large, not 8-bit, or of another size than annotated.
    """
    width, height = read_size(path)
    if width * height > max_pixels:
        raise UserError(f"{path}: {width}x{height} pixels, over the limit of {max_pixels}; cut it into tiles")
    if expected_wh is not None and (width, height) != tuple(expected_wh):
        turned = (
            "; it fits after a rotation: remove the orientation from the file"
            if ((height, width) == tuple(expected_wh))
            else ""
        )
        raise UserError(
            f"{path}: the picture is {width}x{height}, its annotation says "
            f"{expected_wh[0]}x{expected_wh[1]}; correct the annotation file{turned}"
        )
    data = np.fromfile(path, dtype=np.uint8)
    if _is_cut_short(data):
        raise UserError(f"{path}: the picture is truncated; copy it again or remove it from the annotations")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"{path}: the picture cannot be decoded; convert it to PNG or JPEG, or remove it")
    if image.dtype != np.uint8:
        raise UserError(f"{path}: {image.dtype} pixels; convert it to 8-bit (the stretch is yours to choose)")
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)
    if image.shape[2] != 3:
        raise UserError(f"{path}: {image.shape[2]} channels; choose three of them")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) from the picture's header.

    Raises:
        UserError: missing or no picture.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read; we check the size
    try:
        with Image.open(path) as header:
            return header.size
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: not a picture that can be decoded; replace it or remove it") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def write_image(path: Path, image: np.ndarray, params: tuple[int, ...] = ()) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the path's ending.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    ok, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), list(params))
    try:
        if not ok:
            raise OSError("encoding failed")
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error}); free disk space or choose another folder"
        ) from error


def _is_cut_short(data: np.ndarray) -> bool:
    """Whether a JPEG or PNG lacks its end; decoders would fill the rest with grey and not complain."""
    head, tail = data[:8].tobytes(), data[-65536:].tobytes()
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if head.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return False
