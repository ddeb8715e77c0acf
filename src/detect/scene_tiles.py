"""Overlapping tiles of a scene as batches for the network, read by threads ahead of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..base.errors import UserError
from ..data_loader import EvalBatch, EvalSample, eval_batches
from ..imaging.tiling import PADDING, tile_starts
from ..transforms import stretch_for_eval

_MOST_TILES = 1_000_000


@dataclass(frozen=True)
class SceneTile:
    """A tile: its number, the place of its upper left corner in the scene and its size within the scene."""

    id: int
    x: int
    y: int
    width: int
    height: int


class SceneTiles:
    """Batches of a scene's tiles, row by row; tiles that are all nodata are left out.

    A loader for `detect_set`: `batch.records` are `SceneTile`s and detections are in a tile's pixels.

    Args:
        raster: of `open_raster`.
        input_hw: (height, width) of the network's input.
        batch_size: tiles a batch; the last one is filled by repeats, so that its shape does not change.
        tile_size: width of a tile in scene pixels, resized to the input, its height in the input's
            proportion; the input's own size by default. A scene smaller than that is padded with grey,
            so that objects keep their scale.
        overlap: share of a tile that it has in common with its neighbour.
        workers: threads.

    Attributes:
        tiles: all tiles.
        skipped: how many of those read so far were all nodata.

    Raises:
        UserError: a tile size or overlap that is impossible.
    """

    def __init__(
        self,
        raster,
        *,
        input_hw: tuple[int, int],
        batch_size: int,
        tile_size: int | None = None,
        overlap: float = 0.2,
        workers: int = 2,
    ):
        if tile_size is not None and tile_size < 1:
            raise UserError(f"tile_size: {tile_size}; expected at least 1")
        if not 0 <= overlap < 1:
            raise UserError(f"tile_overlap: {overlap:g}; expected a share, from 0 to less than 1")
        self.raster, self.input_hw, self.batch_size, self.workers = raster, input_hw, batch_size, workers
        width = tile_size or input_hw[1]
        height = round(width * input_hw[0] / input_hw[1])
        self.tile_hw = height, width
        rows, columns = tile_starts(raster.height, height, overlap), tile_starts(raster.width, width, overlap)
        if len(rows) * len(columns) > _MOST_TILES:
            raise UserError(
                f"{raster.path}: {len(rows) * len(columns)} tiles; raise tile_size={width} or lower "
                f"tile_overlap={overlap:g}"
            )
        places = [(x, y) for y in rows for x in columns]
        self.tiles = [
            SceneTile(number, x, y, min(width, raster.width - x), min(height, raster.height - y))
            for number, (x, y) in enumerate(places)
        ]
        self.skipped = 0

    @property
    def windows(self) -> np.ndarray:
        """(tiles, 4) x1 y1 x2 y2 of the tiles in the scene."""
        return np.array([(t.x, t.y, t.x + t.width, t.y + t.height) for t in self.tiles], np.float64)

    def __len__(self) -> int:
        """Most batches there can be."""
        return -(-len(self.tiles) // self.batch_size)

    def __iter__(self) -> Iterator[EvalBatch]:
        self.skipped = 0
        return eval_batches(self.tiles, self._sample, self.batch_size, self.workers, self._skip)

    def _skip(self, _: None) -> None:
        self.skipped += 1

    def _sample(self, tile: SceneTile) -> EvalSample | None:
        image = self.raster.read(tile.x, tile.y, tile.width, tile.height)
        if image is None:
            return None
        height, width = self.tile_hw
        if image.shape[:2] != self.tile_hw:
            padded = np.full((height, width, 3), PADDING, np.uint8)
            padded[: tile.height, : tile.width] = image
            image = padded
        return EvalSample(tile, *stretch_for_eval(image, self.input_hw))
