"""Detection in whole scenes of any size: tiled, run in batches, merged, written in scene and map coordinates."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import shown
from ..imaging.raster import open_raster
from ..imaging.visualize import draw_boxes
from ..logger import get_logger, progress_bar
from .detections import detect_set
from .geojson import crs_name, map_corners, to_wgs84, write_geojson
from .merge import DEFAULT_MERGE, MergeOptions, TileDetections, merge_scene
from .postprocess import Detections, PostprocessOptions
from .predictions import Prediction
from .scene_tiles import SceneTiles

_MOST_DRAWN = 20_000  # boxes in the preview


@dataclass(frozen=True)
class SceneOptions:
    """How a scene is read, cut and merged.

    Attributes:
        tile_size: width of a tile in scene pixels; None: that of the network's input.
        overlap: share of a tile that it has in common with its neighbour.
        batch_size: tiles a batch.
        workers: threads that read and resize.
        bands: band numbers from 1, one or three; None: the file's own choice.
        stretch: percentiles that become black and white; None: 8-bit values as they are.
        merge: how tiles' detections become the scene's.
        outside: a .vrt may name files outside of its folder.
        preview_side: longer side of the preview in pixels; 0: none.
    """

    tile_size: int | None = None
    overlap: float = 0.2
    batch_size: int = 8
    workers: int = 2
    bands: tuple[int, ...] | None = None
    stretch: tuple[float, float] | None = None
    merge: MergeOptions = DEFAULT_MERGE
    outside: bool = False
    preview_side: int = 1600


@dataclass(frozen=True)
class SceneDetections:
    """What was found in a scene.

    Attributes:
        path: the scene.
        width, height: its size in pixels.
        crs, transform: rasterio's coordinate system and affine map of the pixels; None without.
        class_names: names of the classes.
        found: the detections in scene pixels, best first.
        tiles: tiles that went through the network.
        skipped: tiles left out because they are all nodata.
        seconds: time from the first tile to the merged detections.
        preview: the scene, made small, (h, w, 3) uint8 RGB; None if not wanted.
    """

    path: Path
    width: int
    height: int
    crs: object
    transform: object
    class_names: tuple[str, ...]
    found: Detections
    tiles: int
    skipped: int
    seconds: float
    preview: np.ndarray | None

    def describe(self) -> str:
        """One line: size, tiles, speed, detections."""
        skipped = f" ({self.skipped} more are all nodata)" if self.skipped else ""
        return (
            f"{shown(self.path, 300)}: {self.width}x{self.height}, {self.tiles} tiles{skipped}, "
            f"{self.tiles / max(self.seconds, 1e-9):.2f} tiles/s, {len(self.found)} detections"
        )


def detect_scene(
    detect: Callable[[np.ndarray], Prediction],
    path: Path,
    class_names: tuple[str, ...],
    input_hw: tuple[int, int],
    options: SceneOptions,
    post: PostprocessOptions,
) -> SceneDetections:
    """Detect in a scene.

    Args:
        detect: of a `Backend`; called with (N, 3, H, W) uint8 RGB, N always `batch_size`.
        path: the scene.
        class_names: names of the classes.
        input_hw: (height, width) of the network's input.
        options: how the scene is read, cut and merged.
        post: thresholds in a tile.

    Raises:
        UserError: the scene cannot be read, or options that do not fit it.
    """
    path = Path(path)
    with open_raster(path, options.bands, options.stretch, options.outside) as raster:
        loader = SceneTiles(
            raster,
            input_hw=input_hw,
            batch_size=options.batch_size,
            tile_size=options.tile_size,
            overlap=options.overlap,
            workers=options.workers,
        )
        started = time.perf_counter()
        in_tiles, tiles = _detect_tiles(detect, loader, post, path.name)
        found = merge_scene(in_tiles, options.merge)
        seconds = time.perf_counter() - started
        preview = raster.preview(options.preview_side) if options.preview_side else None
        return SceneDetections(
            path, raster.width, raster.height, raster.crs, raster.transform, tuple(class_names), found, tiles,
            loader.skipped, seconds, preview,
        )  # fmt: skip


def _detect_tiles(
    detect, loader: SceneTiles, post: PostprocessOptions, name: str
) -> tuple[TileDetections, int]:
    """Detections of all tiles in scene pixels, and how many tiles were not skipped."""
    boxes, scores, classes, tile = [np.zeros((0, 4))], [np.zeros(0, np.float32)], [np.zeros(0, np.int32)], []
    counts, capped, seen, skipped = [], 0, 0, 0
    with progress_bar(len(loader.tiles), name, "tile") as bar:
        for batch, found in detect_set(detect, loader, post):
            for shown, detections in zip(batch.records, found):
                boxes.append(detections.boxes + np.array([shown.x, shown.y] * 2, np.float64))
                scores.append(detections.scores)
                classes.append(detections.classes)
                tile.append(shown.id)
                counts.append(len(detections))
                capped += detections.capped
            seen += batch.valid
            bar.update(batch.valid + loader.skipped - skipped)
            skipped = loader.skipped
    if capped:
        get_logger().info(
            "%d of %d tiles have more than max_detections=%d detections: the best are kept",
            capped, seen, post.max_detections,
        )  # fmt: skip
    return TileDetections(
        np.concatenate(boxes),
        np.concatenate(scores),
        np.concatenate(classes),
        np.repeat(np.array(tile, np.int64), counts),
        loader.windows,
        (loader.raster.width, loader.raster.height),
    ), seen


def write_scene_maps(result: SceneDetections, folder: Path, name: str | None = None) -> list[Path]:
    """Write a scene's detections for a map: GeoJSON where the scene has map coordinates.

    The files are `<name>.geojson` (the scene's own coordinate system) and `<name>_wgs84.geojson`; what is
    missing, and why, is in the log. Returns the paths written; `name` is the scene's own by default.

    Raises:
        UserError: a file cannot be written.
    """
    logger = get_logger()
    if result.transform is None or result.crs is None:
        logger.info(
            "%s: no map coordinates or coordinate system in the file: no GeoJSON", shown(result.path, 300)
        )
        return []
    folder.mkdir(parents=True, exist_ok=True)
    name = name or result.path.stem
    corners = map_corners(result.found.boxes, result.transform)
    written = []
    if crs_name(result.crs) is not None:  # first: it needs no transformation, which can fail
        written.append(folder / f"{name}.geojson")
        write_geojson(written[0], result.found, result.class_names, corners, result.crs)
    written.append(folder / f"{name}_wgs84.geojson")
    lost = write_geojson(written[-1], result.found, result.class_names, to_wgs84(corners, result.crs))
    if lost:
        logger.warning(
            "%s: %d detections lie where its coordinate system has no place on earth",
            shown(result.path, 300),
            lost,
        )
    if crs_name(result.crs) is None:
        logger.info(
            "%s: a coordinate system without EPSG code: GeoJSON in WGS84 only", shown(result.path, 300)
        )
    return written


def draw_preview(result: SceneDetections) -> np.ndarray:
    """The preview with the boxes, the best ones where they are very many."""
    assert result.preview is not None  # asked for by `preview_side`
    scale = np.array([result.preview.shape[1] / result.width, result.preview.shape[0] / result.height] * 2)
    shown = slice(0, _MOST_DRAWN)
    found = result.found
    return draw_boxes(
        result.preview,
        found.boxes[shown] * scale,
        found.classes[shown],
        result.class_names,
        found.scores[shown],
    )
