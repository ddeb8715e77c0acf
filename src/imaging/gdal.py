"""The one door to GDAL: which formats and files it may open, and that it asks nothing of a network.

A raster's metadata, overviews and lists of other files can name anything that GDAL knows, addresses of web servers
among it, and GDAL opens that by content, with any format's reader. So the readers are those of `allowed_drivers` and no
others, remote file systems match no name, and what belongs to a raster beside it must lie in its folder.
"""

import os
import secrets
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from .mosaic import read_mosaic
from .tiff_blocks import LARGEST_BLOCK, check_blocks

# GDAL's format of a file by its ending, so that the content cannot choose another.
_DRIVERS = {
    ".vrt": "VRT", ".img": "HFA", ".jp2": "JP2OpenJPEG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP",
    ".gif": "GIF", ".webp": "WEBP",
}  # fmt: skip
_TIFF = "GTiff"
_CACHE_BYTES = 256 << 20  # of decoded blocks, for rows of tiles that overlap
_MOST_PIXELS = 10**11  # a mosaic of 316,000 x 316,000
_BESIDE = (".ovr", ".msk")  # overviews and masks that GDAL finds by name
_lock = threading.Lock()


def allowed_drivers() -> frozenset[str]:
    """Names of the formats that GDAL may read."""
    return frozenset((_TIFF, "MEM", *_DRIVERS.values()))


def allowed_access() -> dict[str, str]:
    """GDAL's settings that say what it may reach beside local files: nothing.

    GDAL compares each remote name with an ending and a name that are allowed; none has these.
    """
    nothing = secrets.token_hex(16)
    return {
        "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": f".{nothing}",
        "CPL_VSIL_CURL_ALLOWED_FILENAME": nothing,
        "GDAL_DRIVER_PATH": "disable",
        "PROJ_NETWORK": "OFF",
    }


@cache
def _restrict() -> None:
    """Once a process: unload all other formats and close the network.

    The settings stand in the environment, where GDAL looks from every thread; those of `rasterio.Env` hold for one.

    Raises:
        UserError: this rasterio does not let go of its formats.
    """
    import rasterio
    from rasterio import _env

    os.environ.update(allowed_access())
    with rasterio.Env() as env:
        if others := sorted(set(env.drivers()) - allowed_drivers()):
            # A comma makes it a list whose names may have spaces. What stands there, a parent process may have set.
            os.environ["GDAL_SKIP"] = ",".join([*others, os.environ.get("GDAL_SKIP", "none")])
            _env._have_registered_drivers = False  # GDAL reads the list when it registers its formats
            _env.GDALEnv().start()
        left = set(env.drivers()) - allowed_drivers()
    if left:
        raise UserError(
            f"rasterio {rasterio.__version__} keeps formats that could reach a network ({sorted(left)[0]}); "
            "install another version (requirements-scenes.txt)"
        )


@contextmanager
def gdal(path: object) -> Iterator:
    """The module rasterio, restricted, within its environment; `path` is what it is needed for, in errors.

    Raises:
        UserError: rasterio is not installed.
    """
    try:
        import rasterio
    except ImportError as error:
        raise UserError(
            f"{path}: rasterio is needed to read it; pip install -r requirements-scenes.txt"
        ) from error
    with _lock:
        _restrict()
    with rasterio.Env(**({} if "GDAL_CACHEMAX" in os.environ else {"GDAL_CACHEMAX": _CACHE_BYTES})):
        yield rasterio


@contextmanager
def open_dataset(path: Path, outside: bool = False) -> Iterator:
    """rasterio's dataset of a local raster.

    Args:
        path: the file; its ending tells the format.
        outside: whether the files of a `.vrt` may lie outside of its folder.

    Raises:
        UserError: not readable, blocks or a size that take too much memory, or names of other files that it may not
            have.
    """
    with gdal(path) as rasterio, ExitStack() as stack:
        driver = _DRIVERS.get(path.suffix.lower(), _TIFF)
        if driver == "VRT":
            text, sources = read_mosaic(path, outside)
            for source in sources:
                with _checked(rasterio, source, _DRIVERS.get(source.suffix.lower(), _TIFF)):
                    pass
            memory = stack.enter_context(rasterio.MemoryFile(text, ext=".vrt"))
            with _errors(rasterio, path):
                dataset = stack.enter_context(memory.open(driver=driver))
            _check_size(path, dataset)
        else:
            dataset = stack.enter_context(_checked(rasterio, path, driver))
        yield dataset


@contextmanager
def _errors(rasterio, path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            yield
    except rasterio.errors.RasterioError as error:
        raise UserError(f"{path}: not a raster that can be read; copy or convert it again") from error


@contextmanager
def _checked(rasterio, path: Path, driver: str) -> Iterator:
    """A dataset of one file, and of what lies beside it, all within the bounds."""
    if driver == _TIFF:
        check_blocks(path)
    _check_beside(path)
    with _errors(rasterio, path):
        options = {"NUM_THREADS": "ALL_CPUS"} if driver == _TIFF else {}
        dataset = rasterio.open(path, driver=driver, **options)
    with dataset:
        _check_size(path, dataset)
        named = dataset.tags(ns="OVERVIEWS").get("OVERVIEW_FILE")
        if named is not None:
            name = named.removeprefix(":::BASE:::")
            if not name or "/" in name or "\\" in name or ":" in name or not (path.parent / name).is_file():
                raise UserError(
                    f"{path}: names {named!r} as its overviews, which is no file in its folder; build them again by "
                    "gdaladdo"
                )
            check_blocks(path.parent / name)
            _check_beside(path.parent / name)
        folder = os.path.abspath(path.parent)  # noqa: PTH100 (links stay)
        for name in dataset.files:
            if os.path.dirname(os.path.abspath(name)) != folder:  # noqa: PTH100, PTH120
                raise UserError(
                    f"{path}: reads {name}, which is outside of its folder; convert it to a GeoTIFF"
                )
        yield dataset


def _check_beside(path: Path) -> None:
    """Overviews and masks in files beside a raster, and in files beside those, are TIFFs within the bounds."""
    for ending in _BESIDE:
        for name in (f"{path.name}{ending}", f"{path.name}{ending.upper()}", f"{path.stem}{ending}"):
            beside = path.with_name(name)
            if beside != path and beside.is_file():
                check_blocks(beside)
                if len(beside.suffixes) <= 8:  # GDAL itself stops sooner
                    _check_beside(beside)


def _check_size(path: Path, dataset) -> None:
    if dataset.width * dataset.height > _MOST_PIXELS:
        raise UserError(
            f"{path}: {dataset.width}x{dataset.height} pixels, over the limit of {_MOST_PIXELS}; cut it"
        )
    if dataset.driver == _TIFF:  # of which the directories have been checked
        return
    for (rows, columns), kind in zip(dataset.block_shapes, dataset.dtypes):
        size = rows * columns * np.dtype(kind.replace("complex_", "complex")).itemsize
        if size > LARGEST_BLOCK:
            raise UserError(
                f"{path}: blocks of {size:,} bytes, more than {LARGEST_BLOCK:,}; convert it to a GeoTIFF"
            )
