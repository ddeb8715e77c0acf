"""Scenes read by window as 8-bit RGB: GeoTIFF and all else that GDAL knows, or plain images.

A GeoTIFF is read through rasterio (optional, requirements-scenes.txt) and never held whole. PNG, JPEG and
their like need no rasterio, unless bands or a stretch are chosen; these formats cannot be read by window, so
such an image is decoded at once, up to `image_io.MAX_PIXELS`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from ..base.errors import UserError
from .gdal import open_dataset
from .image_io import IMAGE_SUFFIXES, read_rgb

_PLAIN_SUFFIXES = tuple(suffix for suffix in IMAGE_SUFFIXES if not suffix.startswith(".tif"))
_SAMPLE_PIXELS = 4_000_000  # of which percentiles are taken
_SAMPLE_SIDE = 64
_MOST_LOOKUPS = 200_000  # blocks whose place in the file is checked when it is opened


class PlainRaster:
    """An image in memory; no coordinates beyond its pixels."""

    crs = None
    transform = None

    def __init__(self, path: Path):
        self.path = path
        self._image = read_rgb(path)
        self.height, self.width = self._image.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray | None:
        """The window (height, width, 3) uint8 RGB."""
        return self._image[y : y + height, x : x + width]

    def preview(self, max_side: int) -> np.ndarray:
        """The whole scene, its longer side at most `max_side`."""
        size = _preview_size(self.width, self.height, max_side)
        if size == (self.width, self.height):
            return self._image
        return cv2.resize(self._image, size, interpolation=cv2.INTER_AREA)


class GeoRaster:
    """A raster that GDAL reads by window.

    One handle behind a lock serves all threads: a handle for each would decode the blocks that
    neighbouring tiles share once in every thread. GDAL decodes the blocks of a window in threads of its own.

    Attributes:
        width, height: pixels.
        crs: rasterio's coordinate system, None without one.
        transform: affine map from pixels (corner of the first one at 0, 0) to `crs`, None without one.
    """

    def __init__(self, path: Path, dataset, bands: tuple[int, ...] | None, stretch):
        self.path, self._dataset, self._lock = path, dataset, threading.Lock()
        self.width, self.height = dataset.width, dataset.height
        self.crs, self.transform = _georeference(dataset)
        self._palette = _palette(dataset, bands)
        self.bands = _choose_bands(path, dataset, bands)
        self._check_kind(stretch)
        self._bits, self._white_is_zero = _bits(dataset, self.bands), _white_is_zero(dataset)
        self._has_mask = any("all_valid" not in _flags(dataset, band) for band in self.bands)
        self._floating = any(np.dtype(dataset.dtypes[band - 1]).kind == "f" for band in self.bands)
        self._limits = self._find_limits(stretch) if stretch is not None else None

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray | None:
        """The window (height, width, 3) uint8 RGB; None where all of it is nodata.

        Raises:
            UserError: the file is damaged there.
        """
        values, valid = self._values((x, y, width, height))
        if not valid.any():
            return None
        return self._to_rgb(values)

    def close(self) -> None:
        """Close the file, after a thread that is still reading: GDAL crashes on a handle that is gone."""
        with self._lock:
            self._dataset.close()

    def preview(self, max_side: int) -> np.ndarray:
        """The whole scene, its longer side at most `max_side`, of overviews where the file has them."""
        values, _ = self._values(None, _preview_size(self.width, self.height, max_side))
        return self._to_rgb(values)

    def _values(self, window, size=None) -> tuple[np.ndarray, np.ndarray]:
        """Stored values (bands, h, w) of a window x y w h (None: all) and which are valid, (h, w) bool."""
        from rasterio.enums import Resampling
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        options = {} if window is None else {"window": Window(*window)}
        bands = sorted(set(self.bands))
        if size is not None:
            options["out_shape"] = (len(bands), size[1], size[0])
        try:
            with self._lock:
                # Averages of palette indices mean nothing.
                kind = Resampling.nearest if size is None or self._palette is not None else Resampling.average
                values = self._dataset.read(bands, resampling=kind, **options)
                masks = self._dataset.read_masks(bands, **options) if self._has_mask else None
        except RasterioError as error:
            place = "" if window is None else " at x={} y={}".format(*window)
            raise UserError(
                f"{self.path}: damaged{place}: its pixels cannot be read; copy or convert the file again"
            ) from error
        valid = np.ones(values.shape[1:], bool) if masks is None else masks.any(axis=0)
        if self._floating:
            valid &= np.isfinite(values).any(axis=0)
        return values[[bands.index(band) for band in self.bands]], valid

    def _to_rgb(self, values: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            return self._palette[values[0]]
        if self._limits is not None:
            values = [_stretched(plane, *limits) for plane, limits in zip(values, self._limits)]
        else:
            values = [_in_8_bits(plane, bits) for plane, bits in zip(values, self._bits)]
        if self._white_is_zero:
            values = [255 - plane for plane in values]
        planes = list(values) * (3 if len(values) == 1 else 1)
        return cv2.merge([np.ascontiguousarray(plane) for plane in planes])

    def _check_kind(self, stretch) -> None:
        kinds = {self._dataset.dtypes[band - 1] for band in self.bands}
        if any(np.dtype(kind).kind == "c" for kind in kinds):
            raise UserError(f"{self.path}: complex pixels; convert it to intensities")
        if kinds != {"uint8"} and stretch is None:
            raise UserError(
                f"{self.path}: {', '.join(sorted(kinds))} pixels, the network takes 8-bit; "
                "give the percentiles that become black and white, --scene_stretch=2,98"
            )
        if self._palette is not None and stretch is not None:
            raise UserError(f"{self.path}: palette colours cannot be stretched; leave out --scene_stretch")

    def _find_limits(self, stretch) -> list[tuple[float, float]]:
        """Values that become black and white, a band: percentiles of a sample spread over the whole scene."""
        low, high = stretch
        if not 0 <= low < high <= 100:
            raise UserError(f"scene_stretch: {low:g},{high:g}; expected two rising percentiles within 0..100")
        bands: list[list[np.ndarray]] = [[] for _ in self.bands]
        for window in self._sample_windows():
            values, valid = self._values(window)
            for sample, plane in zip(bands, values):
                kept = plane[valid]
                sample.append(kept[np.isfinite(kept)] if self._floating else kept)
        limits = []
        for sample in bands:
            values = np.concatenate(sample)
            limits.append(tuple(np.percentile(values, [low, high]).tolist()) if len(values) else (0.0, 1.0))
        return limits

    def _sample_windows(self) -> Iterator[tuple[int, int, int, int]]:
        """All of a small scene, of a large one windows on a regular grid: a cost that does not grow."""
        if self.width * self.height <= _SAMPLE_PIXELS:
            rows = max(1, (1 << 20) // self.width)
            for y in range(0, self.height, rows):
                yield 0, y, self.width, min(rows, self.height - y)
            return
        width, height = min(_SAMPLE_SIDE, self.width), min(_SAMPLE_SIDE, self.height)
        count = _SAMPLE_PIXELS / (width * height)
        across = min(max(1, round((count * self.width / self.height) ** 0.5)), -(-self.width // width))
        down = min(max(1, round(count / across)), -(-self.height // height))
        for y in np.linspace(0, self.height - height, down).astype(int).tolist():
            for x in np.linspace(0, self.width - width, across).astype(int).tolist():
                yield x, y, width, height


@contextmanager
def open_raster(
    path: Path,
    bands: tuple[int, ...] | None = None,
    stretch: tuple[float, float] | None = None,
    outside: bool = False,
) -> Iterator[PlainRaster | GeoRaster]:
    """A scene to be read by window.

    Args:
        path: the file.
        bands: numbers from 1 of the band shown as grey, or of those shown as red, green and blue. By
            default the colours that the file names, else its first three bands, or its only one.
        stretch: percentiles that become black and white, band by band and the same all over the scene.
            Needed where pixels are not 8-bit.
        outside: whether a `.vrt` may name files outside of its folder.

    Raises:
        UserError: missing, unreadable or truncated, bands that it does not have, pixels that need a
            stretch, or rasterio is needed and not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.suffix.lower() in _PLAIN_SUFFIXES and bands is None and stretch is None:
        yield PlainRaster(path)
        return
    with open_dataset(path, outside) as dataset:
        raster = GeoRaster(path, dataset, bands, stretch)
        _check_complete(path, dataset, raster.bands)
        try:
            yield raster
        finally:
            raster.close()


def _georeference(dataset):
    """(crs, transform), each None where the file does not say."""
    from rasterio.transform import from_gcps

    points, crs = dataset.gcps
    if points and crs is not None and dataset.crs is None:
        return crs, from_gcps(points)
    return dataset.crs, None if dataset.transform.is_identity else dataset.transform


def _flags(dataset, band: int) -> list[str]:
    return [flag.name for flag in dataset.mask_flag_enums[band - 1]]


def _bits(dataset, bands) -> list[int]:
    """Bits a pixel of each band: GDAL gives those of fewer than 8 as bytes."""
    return [int(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", 8)) for band in bands]


def _in_8_bits(plane: np.ndarray, bits: int) -> np.ndarray:
    """Values of 1 to 7 bits spread over 0..255, as `read_rgb` gives them."""
    if bits >= 8:
        return plane
    highest = (1 << bits) - 1
    return np.minimum(np.arange(256) * 255 // highest, 255).astype(np.uint8)[plane]


def _white_is_zero(dataset) -> bool:
    """Whether a TIFF says that 0 is white (PhotometricInterpretation 0)."""
    return dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"


def _palette(dataset, bands) -> np.ndarray | None:
    """(256, 3) uint8 colours of a palette image."""
    from rasterio.enums import ColorInterp

    if (
        dataset.colorinterp[0] != ColorInterp.palette
        or dataset.dtypes[0] != "uint8"
        or bands not in (None, (1,))
    ):
        return None
    colours = np.zeros((256, 3), np.uint8)
    for index, colour in dataset.colormap(1).items():
        colours[index] = colour[:3]
    return colours


def _choose_bands(path: Path, dataset, bands: tuple[int, ...] | None) -> tuple[int, ...]:
    """Numbers of one band (grey) or three (red, green, blue)."""
    from rasterio.enums import ColorInterp

    if bands is not None:
        wrong = [band for band in bands if not 1 <= band <= dataset.count]
        if wrong or len(bands) not in (1, 3):
            raise UserError(
                f"scene_bands: {','.join(map(str, bands))}; expected one or three numbers, {path} has the bands "
                f"1 to {dataset.count}"
            )
        return tuple(bands)
    colours = dataset.colorinterp
    named = [
        colours.index(c) + 1 for c in (ColorInterp.red, ColorInterp.green, ColorInterp.blue) if c in colours
    ]
    if len(named) == 3:
        return tuple(named)
    shown = [number for number, colour in enumerate(colours, start=1) if colour != ColorInterp.alpha]
    if len(shown) >= 3:
        return tuple(shown[:3])
    if len(shown) == 1:
        return tuple(shown)
    raise UserError(
        f"{path}: {len(shown)} bands; choose one to be shown as grey, or three, --scene_bands=1 or --scene_bands=1,2,2"
    )


def _check_complete(path: Path, dataset, bands) -> None:
    """Every block of a TIFF must lie within the file: a truncated one is refused before hours of work."""
    if dataset.driver != "GTiff":
        return
    rows, columns = dataset.block_shapes[0]
    down, across = -(-dataset.height // rows), -(-dataset.width // columns)
    bands = (
        sorted(set(bands))
        if dataset.interleaving is not None and dataset.interleaving.name == "band"
        else [1]
    )
    if down * across * len(bands) > _MOST_LOOKUPS:
        return
    size = path.stat().st_size
    for band in bands:
        for y in range(down):
            for x in range(across):
                place = dataset.get_tag_item(f"BLOCK_OFFSET_{x}_{y}", "TIFF", band)
                if place is None:  # a block without content, as sparse files have
                    continue
                length = dataset.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", band)
                if int(place) + int(length or 0) > size:
                    raise UserError(
                        f"{path}: truncated, pixels from y={y * rows} on are missing; copy it again"
                    )


def _stretched(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values to 0..255, linear between the limits, NaN to 0."""
    scale = 255 / (high - low) if high > low else 255.0
    if plane.dtype in (np.uint8, np.uint16):
        values = np.arange(np.iinfo(plane.dtype).max + 1, dtype=np.float64)
        table = np.clip(np.round((values - low) * scale), 0, 255).astype(np.uint8)
        return table[plane]
    scaled = np.clip(np.round((plane.astype(np.float64) - low) * scale), 0, 255)
    return np.nan_to_num(scaled).astype(np.uint8)


def _preview_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) of the preview."""
    ratio = min(1.0, max_side / max(width, height))
    return max(1, round(width * ratio)), max(1, round(height * ratio))
