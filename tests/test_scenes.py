"""Whole scenes: a detector that finds drawn rectangles, tiled and merged, on the map where they are."""

import gc
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.transform import Affine

from src.base.errors import UserError
from src.data_loader import planes_first
from src.detect import scenes
from src.detect.merge import MergeOptions
from src.detect.postprocess import postprocess
from src.detect.predictions import DecodedMaps
from src.detect.scene_tiles import SceneTiles
from src.detect.scenes import SceneOptions, detect_scene, draw_preview, write_scene_maps
from src.imaging.image_io import write_image
from src.imaging.raster import open_raster
from src.transforms import stretch_for_eval
from tests.drawn_scene import (
    INPUT_HW,
    NAMES,
    POST,
    by_place,
    detect_rectangles,
    draw,
    find_rectangles,
    scatter,
)


def save(path, image):
    write_image(path, image)
    return path


def detect(path, **options):
    return detect_scene(detect_rectangles, path, NAMES, INPUT_HW, SceneOptions(batch_size=4, **options), POST)


def assert_same(found, boxes, classes, atol):
    assert len(found) == len(boxes)
    np.testing.assert_allclose(by_place(found.boxes, found.classes), by_place(boxes, classes), atol=atol)


@pytest.mark.parametrize("method", ["nms", "weighted"])
@pytest.mark.parametrize("seed", range(3))
def test_each_object_comes_out_once_and_whole(tmp_path, method, seed):
    """Small and large ones, some longer than the overlap of 64 or than a tile of 320."""
    rng = np.random.default_rng(seed)
    boxes, classes = scatter(rng, 1500, 1100, 12, 500)
    small, kinds = scatter(rng, 1500, 1100, 400, 60)
    apart = [
        not any(
            s[0] < b[2] + 4 and b[0] < s[2] + 4 and s[1] < b[3] + 4 and b[1] < s[3] + 4
            for b in boxes.tolist()
        )
        for s in small.tolist()
    ]
    boxes, classes = np.concatenate([boxes, small[apart]]), np.concatenate([classes, kinds[apart]])
    assert len(boxes) > 100
    path = save(tmp_path / "scene.png", draw(1500, 1100, boxes, classes))
    result = detect(path, merge=MergeOptions(method))
    assert (result.width, result.height, result.skipped) == (1500, 1100, 0)
    assert result.tiles == 6 * 5  # starts 0, 256, ... 1024, 1180 and 0, 256, 512, 768, 780
    assert_same(result.found, boxes, classes, atol=0.02)


def test_merge_is_needed(tmp_path):
    """The same scene with boxes of the tiles as they are has more boxes than objects: the test can fail."""
    boxes, classes = scatter(np.random.default_rng(0), 1500, 1100, 60, 200)
    path = save(tmp_path / "scene.png", draw(1500, 1100, boxes, classes))
    one_tile = detect(path, tile_size=1500)
    assert one_tile.tiles == 1
    with open_raster(path) as raster:
        loader = SceneTiles(raster, input_hw=INPUT_HW, batch_size=4)
        in_tiles, _ = scenes._detect_tiles(detect_rectangles, loader, POST, "scene")
    assert len(in_tiles.boxes) > 1.4 * len(boxes)
    assert_same(detect(path).found, boxes, classes, atol=0.02)


def test_equals_the_tiles_own_detections_away_from_seams(tmp_path):
    """Objects that one tile alone shows, also overlapping ones: the same boxes and scores, to the last digit."""
    rng = np.random.default_rng(4)
    image = np.full((832, 832, 3), 90, np.uint8)  # tiles at 0, 256, 512
    alone = [(0, 256), (320, 512), (576, 832)]
    for x1, x2 in alone:
        for y1, y2 in alone:
            boxes, classes = scatter(rng, x2 - x1 - 30, y2 - y1 - 30, 12, 60)
            image[y1 + 15 : y2 - 15, x1 + 15 : x2 - 15] = draw(x2 - x1 - 30, y2 - y1 - 30, boxes, classes)
    path = save(tmp_path / "scene.png", image)

    def doubled(images):
        """Each object found twice, the second time half beside it: IoU 1/3, both kept by a tile."""
        maps = find_rectangles(images)
        again = maps[2].copy()
        again[..., 0] += again[..., 2] / 2
        again[..., 4] *= 0.7
        return DecodedMaps([maps[0], maps[2], again], INPUT_HW)

    options = SceneOptions(batch_size=4, merge=MergeOptions(iou_threshold=0.2))
    result = detect_scene(doubled, path, NAMES, INPUT_HW, options, POST)
    rows = []
    for y in (0, 256, 512):
        for x in (0, 256, 512):
            tile, geometry = stretch_for_eval(image[y : y + 320, x : x + 320], INPUT_HW)
            batch = np.empty((1, 3, *INPUT_HW), np.uint8)
            planes_first(tile, batch[0])
            maps = [level[0] for level in doubled(batch).maps]
            found = postprocess(maps, (320, 320), POST, geometry, INPUT_HW)
            rows += [
                (label, score, *np.float32(box + (x, y, x, y)))
                for label, score, box in zip(found.classes, found.scores, found.boxes)
            ]
    assert len(rows) > 100
    ours = np.column_stack([result.found.classes, result.found.scores, result.found.boxes])
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, np.array(rows).tolist()))
    assert (np.diff(result.found.scores) <= 0).all()


def test_tiles_of_another_size_are_resized(tmp_path):
    boxes, classes = scatter(np.random.default_rng(1), 1000, 900, 40, 150, gap=12)
    path = save(tmp_path / "scene.png", draw(1000, 900, boxes, classes))
    result = detect(path, tile_size=480)
    assert result.tiles == 9  # starts 0, 384, 520 and 0, 384, 420
    assert_same(result.found, boxes, classes, atol=2.5)


def test_scene_smaller_than_a_tile_keeps_its_scale(tmp_path):
    boxes, classes = np.array([[10, 20, 50, 40], [60, 5, 90, 70]]), np.array([0, 1])
    path = save(tmp_path / "scene.png", draw(100, 80, boxes, classes))
    result = detect(path)
    assert result.tiles == 1
    assert_same(result.found, boxes, classes, atol=0.02)
    with_edge = save(tmp_path / "edge.png", draw(100, 80, [(70, 60, 100, 80)], [0]))
    assert_same(detect(with_edge).found, np.array([[70, 60, 100, 80]]), [0], atol=0.02)


def test_one_pixel(tmp_path):
    result = detect(save(tmp_path / "one.png", np.full((1, 1, 3), 90, np.uint8)))
    assert (result.width, result.height, result.tiles, len(result.found)) == (1, 1, 1, 0)


def test_tiles_cover_the_scene_and_batches_have_one_shape(tmp_path, monkeypatch):
    with open_raster(save(tmp_path / "a.png", draw(700, 500, [], []))) as raster:
        loader = SceneTiles(raster, input_hw=(160, 320), batch_size=5, overlap=0.25)
        covered = np.zeros((500, 700), int)
        for x1, y1, x2, y2 in loader.windows.astype(int):
            covered[y1:y2, x1:x2] += 1
            assert (x2 - x1, y2 - y1) == (320, 160)
        assert covered.min() == 1
        batches = list(loader)
        assert {batch.images.shape for batch in batches} == {(5, 3, 160, 320)}
        assert [record.id for batch in batches for record in batch.records[: batch.valid]] == list(
            range(len(loader.tiles))
        )
        assert len(batches) == len(loader)
        monkeypatch.setattr("src.detect.scene_tiles._MOST_TILES", 1000)
        for options, name in (
            ({"overlap": 1.0}, "tile_overlap"),
            ({"tile_size": -4}, "tile_size"),
            ({"overlap": 0.999, "tile_size": 30}, "tiles; raise"),
        ):
            with pytest.raises(UserError, match=name):
                SceneTiles(raster, input_hw=INPUT_HW, batch_size=1, **options)


NORTH_UP = Affine(0.5, 0, 448000, 0, -0.5, 5412000)


def write_tif(path, image, transform=NORTH_UP, crs="EPSG:32631", **options):
    height, width = image.shape[:2]
    shape = {"driver": "GTiff", "count": 3, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(path, "w", **shape, crs=crs, transform=transform, **options) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    return path


def test_nodata_tiles_are_skipped_and_counted(tmp_path):
    boxes, classes = scatter(np.random.default_rng(2), 500, 800, 30, 60)
    image = draw(1500, 800, boxes, classes)
    image[:, 550:] = 0
    image[400:420, 1000:1020] = (230, 40, 30)  # an island
    path = write_tif(tmp_path / "a.tif", image, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    seen = []

    def counting(images):
        seen.append(images.shape)
        return detect_rectangles(images)

    result = detect_scene(counting, path, NAMES, INPUT_HW, SceneOptions(batch_size=4), POST)
    # Columns of tiles begin at 0, 256, 512, 768, 1024, 1180, rows at 0, 256, 480.
    assert (result.tiles, result.skipped) == (3 * 3 + 1, 18 - 10)
    assert seen == [(4, 3, *INPUT_HW)] * 3
    assert "8 more are all nodata" in result.describe() and "tiles/s" in result.describe()
    assert_same(
        result.found, np.concatenate([boxes, [[1000, 400, 1020, 420]]]), np.append(classes, 0), atol=0.02
    )
    empty = write_tif(tmp_path / "empty.tif", np.zeros((400, 400, 3), np.uint8), nodata=0)
    nothing = detect(empty)
    assert (nothing.tiles, nothing.skipped, len(nothing.found)) == (0, 4, 0)
    write_scene_maps(nothing, tmp_path)
    assert json.loads((tmp_path / "empty.geojson").read_text())["features"] == []


def utm_to_degrees(x, y, zone):
    """Longitude, latitude of northern UTM coordinates: Krueger's series to n^4, WGS84, error below 1 mm."""
    n = (f := 1 / 298.257223563) / (2 - f)
    radius = 6378137 / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    beta = (
        n / 2 - 2 * n**2 / 3 + 37 * n**3 / 96 - n**4 / 360,
        n**2 / 48 + n**3 / 15 - 437 * n**4 / 1440,
        17 * n**3 / 480 - 37 * n**4 / 840,
        4397 * n**4 / 161280,
    )
    delta = (
        2 * n - 2 * n**2 / 3 - 2 * n**3 + 116 * n**4 / 45,
        7 * n**2 / 3 - 8 * n**3 / 5 - 227 * n**4 / 45,
        56 * n**3 / 15 - 136 * n**4 / 35,
        4279 * n**4 / 630,
    )
    xi, eta = y / (0.9996 * radius), (x - 500000) / (0.9996 * radius)
    real = xi - sum(b * math.sin(2 * j * xi) * math.cosh(2 * j * eta) for j, b in enumerate(beta, 1))
    imaginary = eta - sum(b * math.cos(2 * j * xi) * math.sinh(2 * j * eta) for j, b in enumerate(beta, 1))
    chi = math.asin(math.sin(real) / math.cosh(imaginary))
    latitude = chi + sum(d * math.sin(2 * j * chi) for j, d in enumerate(delta, 1))
    longitude = math.atan2(math.sinh(imaginary), math.cos(real)) + math.radians(6 * zone - 183)
    return math.degrees(longitude), math.degrees(latitude)


COS, SIN = math.cos(math.radians(30)), math.sin(math.radians(30))
ROTATED = Affine(0.5 * COS, 0.5 * SIN, 448000, 0.5 * SIN, -0.5 * COS, 5412000)
SOUTH_UP = Affine(0.5, 0, 448000, 0, 0.5, 5412000)


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP])
def test_geojson_lies_on_the_map_where_the_objects_are(tmp_path, transform):
    """Read by GDAL's own reader; compared with corners computed by hand, to a tenth of a pixel."""
    boxes, classes = scatter(np.random.default_rng(3), 700, 600, 25, 120)
    path = write_tif(tmp_path / "town.v2.tif", draw(700, 600, boxes, classes), transform)
    result = detect(path)
    files = write_scene_maps(result, tmp_path / "out")
    assert [file.name for file in files] == ["town.v2.geojson", "town.v2_wgs84.geojson"]
    for file, epsg in zip(files, ("EPSG:32631", "EPSG:4326")):
        meta, _, shapes, fields = pyogrio.raw.read(file)
        assert meta["crs"] == epsg and meta["geometry_type"] == "Polygon"
        columns = dict(zip(meta["fields"].tolist(), fields))
        assert set(columns) == {"class", "score", "pixel_box"}
        polygons = shapely.from_wkb(shapes)
        assert len(polygons) == len(boxes)
        assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
        left = {tuple(row) for row in by_place(boxes, classes).tolist()}
        for polygon, name, score, pixel_box in zip(
            polygons, columns["class"], columns["score"], columns["pixel_box"]
        ):
            pixel_box = np.round(json.loads(pixel_box) if isinstance(pixel_box, str) else pixel_box)
            x1, y1, x2, y2 = pixel_box.tolist()
            left.remove((x1, y1, x2, y2, NAMES.index(name)))
            assert score == pytest.approx(0.8, abs=0.2)
            corners = []
            for x, y in ((x1, y1), (x1, y2), (x2, y2), (x2, y1)):
                east = transform.a * x + transform.b * y + transform.c
                north = transform.d * x + transform.e * y + transform.f
                corners.append((east, north) if epsg == "EPSG:32631" else utm_to_degrees(east, north, 31))
            metre = 1 if epsg == "EPSG:32631" else 1 / 111_000
            assert polygon.normalize().equals_exact(shapely.Polygon(corners).normalize(), 0.05 * metre)
        assert not left
    document = json.loads(files[1].read_text())
    assert "crs" not in document  # RFC 7946


def test_scene_without_a_place_on_earth_has_no_geojson(tmp_path):
    result = detect(save(tmp_path / "a.png", draw(400, 300, [(5, 5, 30, 30)], [0])))
    assert write_scene_maps(result, tmp_path / "out") == []
    assert len(result.found) == 1


def test_coordinate_system_without_a_code_is_written_in_wgs84_only(tmp_path):
    crs = "+proj=laea +lat_0=48.5 +lon_0=2.5 +datum=WGS84 +units=m"
    transform = Affine(1, 0, -200, 0, -1, 150)  # the scene's centre is the projection's
    path = write_tif(tmp_path / "a.tif", draw(400, 300, [(180, 130, 220, 170)], [1]), transform, crs)
    (file,) = write_scene_maps(detect(path), tmp_path)
    assert file.name == "a_wgs84.geojson"
    (polygon,) = shapely.from_wkb(pyogrio.raw.read(file)[2])
    assert polygon.centroid.coords[0] == pytest.approx((2.5, 48.5), abs=1e-6)


def test_preview_shows_the_boxes(tmp_path):
    boxes, classes = np.array([[200, 200, 800, 600], [1000, 100, 1400, 1000]]), np.array([0, 1])
    image = draw(1600, 1200, boxes, classes)
    result = detect(save(tmp_path / "a.png", image), preview_side=400)
    assert result.preview.shape == (300, 400, 3)
    drawn = draw_preview(result)
    changed = (drawn != result.preview).any(axis=2)
    assert changed[50:150, 50].all() and changed[25:250, 350].all() and not changed[200:, :200].any()
    assert detect(tmp_path / "a.png", preview_side=0).preview is None


def test_an_error_of_the_network_ends_the_threads_and_closes_the_file(tmp_path):
    path = write_tif(tmp_path / "a.tif", draw(3000, 3000, [], []), tiled=True, compress="deflate")
    rasters = []

    def broken(_):
        raise ZeroDivisionError("here")

    for _ in range(5):
        with pytest.raises(ZeroDivisionError, match="here"):
            detect_scene(broken, path, NAMES, INPUT_HW, SceneOptions(batch_size=2), POST)
    with open_raster(path) as raster:
        rasters.append(raster)
    with pytest.raises(UserError, match="cannot be read"):
        rasters[0].read(0, 0, 5, 5)
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("data", "postprocess"))]


def test_damage_in_the_middle_of_a_scene_is_one_error_with_its_place(tmp_path):
    path = write_tif(tmp_path / "a.tif", draw(1500, 1500, [], []), tiled=True, compress="deflate")
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_4_4", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"a\.tif: damaged at x=\d+ y=768"):
        detect(path)


@pytest.mark.slow
def test_twenty_thousand_pixels_square_stay_in_bounded_memory(tmp_path):
    """A 20,000 x 20,000 GeoTIFF (1.2 GB of pixels) in less than 1.5 GB beyond what the imports need."""
    script = Path(__file__).with_name("large_scene.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["objects"] == figures["found"] > 5000
    assert figures["largest_error"] < 0.05
    assert figures["peak_mb"] - figures["imports_mb"] < 1500
