"""Images that a user names: a file, a folder, a pattern or a list; and batches of those that can be read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from ..base.errors import UserError, one_line, shown
from ..base.text_file import read_text
from ..data_loader import EvalBatch, EvalSample, eval_batches
from ..imaging.image_io import IMAGE_SUFFIXES, read_rgb, read_size
from ..yolo_dataset import ImageRecord

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")  # read by rasterio, with map coordinates
_SUFFIXES = tuple(dict.fromkeys((*IMAGE_SUFFIXES, *RASTER_SUFFIXES)))


def list_images(img_path: str) -> list[Path]:
    """The files that `img_path` names, sorted; those of a `.txt` list in its order.

    Args:
        img_path: an image, a folder (searched with its folders), a pattern with * or ?, or a .txt file
            with an image a line, relative to the list's folder.

    Raises:
        UserError: nothing there.
    """
    if not img_path:
        raise UserError("img_path: not set; give an image, a folder, a pattern or a .txt list")
    path = Path(img_path)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not found:
            raise UserError(f"img_path: no images ({', '.join(_SUFFIXES)}) in {path}")
        return found
    if path.suffix.lower() == ".txt" and path.is_file():
        return _read_list(path)
    if path.is_file():
        return [path]
    found = sorted(Path(name) for name in glob(img_path, recursive=True) if Path(name).is_file())  # noqa: PTH207
    if not found:
        raise UserError(
            f"img_path: {img_path} is neither a file nor a folder, and as a pattern it finds nothing"
        )
    return found


def _read_list(path: Path) -> list[Path]:
    try:
        lines = read_text(path, errors="surrogateescape").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"img_path: {path} is no text file of image names ({error})") from error
    found = [path.parent / line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise UserError(f"img_path: {path} names no images")
    return found


@dataclass(frozen=True)
class Failure:
    """An image that could not be done, and why."""

    path: Path
    reason: str

    @classmethod
    def of(cls, path: Path, error: Exception) -> "Failure":
        """Of whatever was raised: libraries have errors of their own for what a file makes them do."""
        if isinstance(error, UserError):
            return cls(path, str(error))
        return cls(path, f"{shown(path, 300)}: {type(error).__name__}: {shown(one_line(error))}")


class ImageLoader:
    """Batches of images as `EvalLoader` gives them; an image that cannot be read is left out and noted.

    Args:
        paths: the images; `records[i].id` of a batch is the index in it.
        input_hw: (height, width) of the network's input.
        batch_size: images a batch; an incomplete one is filled by repeats.
        resize: from image and input_hw to the input and its geometry (`src.detect.letterbox.eval_resize`).
        workers: threads.

    Attributes:
        failures: what was left out so far.
    """

    def __init__(
        self,
        paths: list[Path],
        *,
        input_hw: tuple[int, int],
        batch_size: int,
        resize: Callable,
        workers: int,
    ):
        self.paths, self.input_hw, self.batch_size, self.workers = paths, input_hw, batch_size, workers
        self.resize = resize
        self.failures: list[Failure] = []

    def __iter__(self) -> Iterator[EvalBatch]:
        return eval_batches(
            range(len(self.paths)), self._sample, self.batch_size, self.workers, self.failures.append
        )

    def _sample(self, index: int) -> EvalSample | Failure:
        path = self.paths[index]
        try:
            image = read_rgb(path)
        except Exception as error:
            return Failure.of(path, error)
        height, width = image.shape[:2]
        record = ImageRecord.unlabelled(index, path, width, height)
        return EvalSample(record, *self.resize(image, self.input_hw))


def split_by_size(paths: list[Path], side: int) -> tuple[list[Path], list[Path], list[Failure]]:
    """Images of at most `side` pixels; larger ones and rasters; and those without a readable header."""
    small, large, failures = [], [], []
    rasters = RASTER_SUFFIXES if find_spec("rasterio") else ()
    for path in paths:
        try:
            is_scene = path.suffix.lower() in rasters or max(read_size(path)) > side
            (large if is_scene else small).append(path)
        except Exception as error:
            failures.append(Failure.of(path, error))
    return small, large, failures
