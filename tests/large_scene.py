"""Detect in a synthetic 20,000 x 20,000 GeoTIFF and print the memory it took; run by test_scenes.py."""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import rasterio
from rasterio.windows import Window

from src.detect.scenes import SceneOptions, detect_scene, write_scene_maps
from tests.drawn_scene import NAMES, POST, by_place, detect_rectangles, draw

SIDE, CELL = 20_000, 200


def objects(rng) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle in most cells of 200 pixels, some up to the next cells' border."""
    boxes = []
    for y in range(0, SIDE, CELL):
        for x in range(0, SIDE, CELL):
            if rng.random() < 0.7:
                w, h = rng.integers(10, CELL - 4, 2).tolist()
                left, top = (
                    x + 2 + int(rng.integers(0, CELL - 3 - w)),
                    y + 2 + int(rng.integers(0, CELL - 3 - h)),
                )
                boxes.append((left, top, left + w, top + h))
    return np.array(boxes), rng.integers(0, len(NAMES), len(boxes))


def write(path: Path, boxes: np.ndarray, classes: np.ndarray) -> None:
    """The scene, a row of cells at a time."""
    rows = boxes[:, 1] // CELL
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 448000, 0, -0.5, 5412000)}
    shape = {"count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", interleave="pixel", **shape, **options, **place) as dataset:
        for row in range(SIDE // CELL):
            inside = rows == row
            part = draw(SIDE, CELL, boxes[inside] - (0, row * CELL, 0, row * CELL), classes[inside])
            dataset.write(part.transpose(2, 0, 1), window=Window(0, row * CELL, SIDE, CELL))


def peak_mb() -> float:
    """Largest resident memory of this program; unlike getrusage's, not that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(folder: Path) -> None:
    path = folder / "large.tif"
    boxes, classes = objects(np.random.default_rng(0))
    if "--read" not in sys.argv:
        write(path, boxes, classes)
        os.execv(sys.executable, [sys.executable, __file__, str(folder), "--read"])  # a fresh peak
    imports = peak_mb()
    options = SceneOptions(batch_size=8)
    started = time.perf_counter()
    result = detect_scene(detect_rectangles, path, NAMES, (608, 608), options, POST)
    seconds = time.perf_counter() - started
    write_scene_maps(result, folder)
    found, truth = by_place(result.found.boxes, result.found.classes), by_place(boxes, classes)
    error = float(np.abs(found - truth).max()) if len(found) == len(truth) else float("inf")
    figures = {
        "objects": len(boxes), "found": len(found), "largest_error": error, "tiles": result.tiles,
        "seconds": seconds, "detect_seconds": result.seconds, "imports_mb": imports, "peak_mb": peak_mb(),
        "file_mb": path.stat().st_size / 2**20,
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
