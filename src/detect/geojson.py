"""Detections as GeoJSON: polygons in the scene's own coordinate system, or in WGS84 (RFC 7946)."""

import json
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write
from ..base.errors import UserError, one_line
from ..imaging.gdal import gdal
from .postprocess import Detections

_ROWS_AT_ONCE = 10_000


def map_corners(boxes: np.ndarray, transform) -> np.ndarray:
    """Outlines (n, 4, 2) of pixel boxes (n, 4) x1 y1 x2 y2 under an affine map, counter-clockwise there.

    Pixel coordinates count from the outer corner of the first pixel, as GDAL's geotransform has it.
    """
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    x, y = np.stack([x1, x1, x2, x2], axis=1), np.stack([y1, y2, y2, y1], axis=1)
    corners = np.stack(
        [transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f],
        axis=2,
    )
    return _counter_clockwise(corners)


def to_wgs84(corners: np.ndarray, crs) -> np.ndarray:
    """Outlines (n, 4, 2) of a coordinate system as longitude and latitude, counter-clockwise.

    What lies outside of the system's domain has no place there: its numbers are not finite.

    Raises:
        UserError: the system cannot be transformed.
    """
    if not len(corners):
        return corners
    with gdal("a map") as rasterio:
        from rasterio.warp import transform

        try:
            longitude, latitude = transform(crs, "EPSG:4326", *corners.reshape(-1, 2).T.tolist())
        except (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError) as error:
            raise UserError(
                f"the scene's coordinate system cannot be transformed to WGS84: {one_line(error)}"
            ) from error
    return _counter_clockwise(np.stack([longitude, latitude], axis=1).reshape(corners.shape))


def crs_name(crs) -> str | None:
    """The name that QGIS and OGR know a coordinate system by; None for one without a code."""
    authority = crs.to_authority()
    return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}" if authority else None


def write_geojson(path: Path, found: Detections, class_names, corners: np.ndarray, crs=None) -> int:
    """Write detections as polygons with the properties class, score and pixel_box (x1 y1 x2 y2).

    Args:
        path: the file; it is written part by part and appears when it is whole.
        found: the detections, in scene pixels.
        class_names: names of the classes.
        corners: (n, 4, 2) their outlines.
        crs: rasterio's coordinate system of the outlines, one with a `crs_name`; None for longitude and
            latitude, as RFC 7946 has them.

    Returns:
        How many are left out, because their numbers are not finite: JSON has none such.

    Raises:
        UserError: the file cannot be written.
    """
    numbers = np.concatenate([corners.reshape(-1, 8), found.boxes, found.scores[:, None]], axis=1)
    kept = np.isfinite(numbers).all(axis=1)
    found, corners = Detections(found.boxes[kept], found.scores[kept], found.classes[kept]), corners[kept]
    digits = 8 if crs is None or crs.is_geographic else 3  # a millimetre
    names = [json.dumps(name) for name in class_names]
    rings = np.concatenate([corners, corners[:, :1]], axis=1).reshape(-1, 10)
    ring = "[" + ", ".join([f"[%.{digits}f, %.{digits}f]"] * 5) + "]"
    form = (
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [' + ring + "]}, "
        '"properties": {"class": %s, "score": %.6g, "pixel_box": [%.2f, %.2f, %.2f, %.2f]}}'
    )
    with atomic_write(path) as handle:
        handle.write('{"type": "FeatureCollection",\n')
        if crs is not None:
            named = {"type": "name", "properties": {"name": crs_name(crs)}}
            handle.write(f'"crs": {json.dumps(named)},\n')
        handle.write('"features": [')
        separator = "\n"
        for start in range(0, len(found), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            columns = zip(
                rings[rows].tolist(),
                found.classes[rows].tolist(),
                found.scores[rows].tolist(),
                found.boxes[rows].tolist(),
            )
            lines = ",\n".join(
                form % (*place, names[label], score, *box) for place, label, score, box in columns
            )
            handle.write(separator + lines)
            separator = ",\n"
        handle.write("\n]}\n")
    return int((~kept).sum())


def _counter_clockwise(corners: np.ndarray) -> np.ndarray:
    x, y = corners[..., 0], corners[..., 1]
    area = (x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)
    return np.where((area < 0)[:, None, None], corners[:, ::-1], corners)
