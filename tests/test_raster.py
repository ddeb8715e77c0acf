"""Rasters by window: bands, stretch, masks, palettes, and one clear line for what cannot be read."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from src.base.errors import UserError
from src.imaging.raster import open_raster

UTM = {"crs": "EPSG:32631", "transform": Affine(0.5, 0, 448000, 0, -0.5, 5412000)}


def write_tif(path, planes, **options):
    """A GeoTIFF of planes (bands, h, w)."""
    planes = np.asarray(planes)
    colours, mask = options.pop("colorinterp", None), options.pop("mask", None)
    colormap = options.pop("colormap", None)
    count, height, width = planes.shape
    shape = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": planes.dtype}
    with rasterio.open(path, "w", **shape, **{**UTM, **options}) as dataset:
        if colours:
            dataset.colorinterp = colours
        if colormap:
            dataset.write_colormap(1, colormap)
        dataset.write(planes)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def noise(shape, dtype=np.uint8, high=256):
    return np.random.default_rng(3).integers(0, high, shape).astype(dtype)


def whole(path, **options):
    with open_raster(path, **options) as raster:
        return raster.read(0, 0, raster.width, raster.height)


def test_windows_are_the_pixels_and_the_place_on_earth_is_kept(tmp_path):
    planes = noise((3, 300, 411))
    path = write_tif(tmp_path / "a.tif", planes, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with open_raster(path) as raster:
        assert (raster.width, raster.height) == (411, 300)
        assert raster.crs == rasterio.CRS.from_epsg(32631) and raster.transform == UTM["transform"]
        window = raster.read(37, 120, 150, 70)
        assert window.dtype == np.uint8 and (window == planes[:, 120:190, 37:187].transpose(1, 2, 0)).all()
        assert raster.read(400, 290, 11, 10).shape == (10, 11, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_plain_images_need_no_rasterio(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), noise((40, 50, 3)))
    with open_raster(path) as raster:
        assert raster.crs is None and raster.transform is None
        expected = cv2.imread(str(path))[10:30, 5:45, ::-1]
        assert (raster.read(5, 10, 40, 20) == expected).all()
        assert raster.preview(25).shape == (20, 25, 3)


def test_without_rasterio_a_tif_names_the_remedy(tmp_path, monkeypatch):
    path = write_tif(tmp_path / "a.tif", noise((3, 20, 20)))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"a\.tif: rasterio .*requirements-scenes\.txt"), open_raster(path):
        pass


def test_bands_by_default_and_by_choice(tmp_path):
    grey = write_tif(tmp_path / "grey.tif", noise((1, 20, 30)))
    assert (np.ptp(whole(grey), axis=2) == 0).all() and whole(grey).std() > 10
    planes = noise((5, 20, 30))
    five = write_tif(tmp_path / "five.tif", planes, photometric="MINISBLACK")
    assert (whole(five) == planes[:3].transpose(1, 2, 0)).all()
    assert (whole(five, bands=(5, 3, 2)) == planes[[4, 2, 1]].transpose(1, 2, 0)).all()
    assert (whole(five, bands=(4, 4, 1)) == planes[[3, 3, 0]].transpose(1, 2, 0)).all()
    assert (whole(five, bands=(4,)) == planes[[3, 3, 3]].transpose(1, 2, 0)).all()
    named = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    bgr = write_tif(tmp_path / "bgr.tif", planes[:4], photometric="MINISBLACK", colorinterp=named)
    assert (whole(bgr) == planes[[2, 1, 0]].transpose(1, 2, 0)).all()


def test_transparent_pixels_are_nodata(tmp_path):
    planes = noise((4, 20, 30))
    planes[3] = 255
    planes[3, :, :15] = 0
    path = write_tif(tmp_path / "rgba.tif", planes, photometric="RGB", alpha="yes")
    with open_raster(path) as raster:
        assert raster.read(0, 0, 15, 20) is None
        assert (raster.read(10, 0, 20, 20) == planes[:3, :, 10:].transpose(1, 2, 0)).all()
    grey_alpha = [ColorInterp.gray, ColorInterp.alpha]
    path = write_tif(tmp_path / "la.tif", planes[[0, 3]], colorinterp=grey_alpha)
    with open_raster(path) as raster:
        assert raster.read(0, 0, 15, 20) is None
        assert (raster.read(15, 0, 15, 20)[..., 1] == planes[0, :, 15:]).all()


def test_nodata_values_masks_and_nan(tmp_path):
    planes = noise((3, 20, 30)) // 2 + 1
    planes[:, :, :15] = 0
    planes[0, 3, 20] = 0  # nodata in one band: still a pixel
    with open_raster(write_tif(tmp_path / "n.tif", planes, nodata=0)) as raster:
        assert raster.read(0, 0, 15, 20) is None
        assert raster.read(20, 3, 1, 1) is not None
    with open_raster(write_tif(tmp_path / "plain.tif", planes)) as raster:
        assert raster.read(0, 0, 15, 20).max() == 0  # black, not nodata, where the file does not say so
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, 15:] = 0
    with open_raster(write_tif(tmp_path / "m.tif", planes, mask=mask)) as raster:
        assert raster.read(15, 0, 15, 20) is None and raster.read(0, 0, 15, 20) is not None
    floats = planes.astype(np.float32)
    floats[:, :, :15] = np.nan
    with open_raster(write_tif(tmp_path / "f.tif", floats), stretch=(0, 100)) as raster:
        assert raster.read(0, 0, 15, 20) is None
        assert raster.read(0, 0, 20, 20)[:, :15].max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_stretch_is_linear_between_percentiles_of_the_valid_pixels(tmp_path, dtype):
    planes = noise((3, 60, 80), dtype, 200 if dtype == np.uint8 else 5000)
    planes = planes + np.array([1, 20, 40], dtype)[:, None, None]
    planes[:, :, :30] = 0
    path = write_tif(tmp_path / "a.tif", planes, nodata=0)
    image = whole(path, stretch=(2, 98))
    for band in range(3):
        low, high = np.percentile(planes[band, :, 30:], [2, 98])
        expected = np.clip(np.round((planes[band].astype(float) - low) / (high - low) * 255), 0, 255)
        assert np.abs(image[..., band] - expected).max() <= 1
    with open_raster(path, stretch=(2, 98)) as raster:  # the same in each window
        assert (raster.read(40, 20, 33, 25) == image[20:45, 40:73]).all()


def test_stretch_of_a_large_scene_comes_from_a_sample_of_all_parts(tmp_path):
    ramp = np.linspace(0, 60000, 3000 * 2500).reshape(1, 3000, 2500).astype(np.uint16)
    path = write_tif(tmp_path / "a.tif", ramp, tiled=True, compress="deflate")
    with open_raster(path, stretch=(5, 95)) as raster:
        ((low, high),) = raster._limits
    assert low == pytest.approx(3000, abs=600) and high == pytest.approx(57000, abs=600)


def test_constant_and_all_nodata_rasters_can_be_stretched(tmp_path):
    flat = np.full((1, 9, 9), 700, np.uint16)
    assert whole(write_tif(tmp_path / "a.tif", flat), stretch=(2, 98)).shape == (9, 9, 3)
    assert whole(write_tif(tmp_path / "b.tif", flat, nodata=700), stretch=(2, 98)) is None


def test_palette_gives_colours(tmp_path):
    planes = noise((1, 20, 30), np.uint8, 3)
    colours = {0: (10, 20, 30, 255), 1: (200, 0, 0, 255), 2: (0, 0, 250, 255)}
    path = write_tif(tmp_path / "p.tif", planes, photometric="palette", colormap=colours)
    expected = np.array([colours[index][:3] for index in range(3)])[planes[0]]
    assert (whole(path) == expected).all()
    with pytest.raises(UserError, match="--scene_stretch"):
        whole(path, stretch=(2, 98))


def test_threads_read_the_same_as_one(tmp_path):
    planes = noise((3, 512, 512))
    path = write_tif(tmp_path / "a.tif", planes, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    places = np.random.default_rng(0).integers(0, 400, (200, 2)).tolist()
    with open_raster(path) as raster, ThreadPoolExecutor(4) as pool:
        for (x, y), image in zip(places, pool.map(lambda place: raster.read(*place, 100, 100), places)):
            assert (image == planes[:, y : y + 100, x : x + 100].transpose(1, 2, 0)).all()
    assert threading.active_count() < 20


def test_preview_is_small_and_true(tmp_path):
    planes = np.zeros((3, 900, 1200), np.uint8)
    planes[0, :, 600:] = 200
    with open_raster(write_tif(tmp_path / "a.tif", planes)) as raster:
        preview = raster.preview(300)
    assert preview.shape == (225, 300, 3)
    assert (preview[:, :149] == 0).all() and (preview[:, 151:] == (200, 0, 0)).all()


def message(call):
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("share", [0.3, 0.98])
def test_truncated_geotiff_is_refused_before_the_work(tmp_path, share, capfd):
    path = write_tif(tmp_path / "cut.tif", noise((3, 600, 600)), tiled=True, blockxsize=128, blockysize=128)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    text = message(lambda: open_raster(path).__enter__())
    assert "cut.tif: truncated" in text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("size", [0, 5, 100])
def test_header_alone_or_less(tmp_path, size, capfd):
    path = write_tif(tmp_path / "cut.tif", noise((3, 60, 60)))
    path.write_bytes(path.read_bytes()[:size])
    assert "cut.tif" in message(lambda: open_raster(path).__enter__())
    assert capfd.readouterr().err == ""


def test_damaged_block_is_named_with_its_place(tmp_path, capfd):
    options = {
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 64,
        "compress": "deflate",
        "interleave": "pixel",
    }
    path = write_tif(tmp_path / "bad.tif", noise((3, 128, 128)), **options)
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", 1))
    data = bytearray(path.read_bytes())
    data[start : start + 4000] = b"\x00" * 4000
    path.write_bytes(bytes(data))
    with open_raster(path) as raster:
        assert raster.read(0, 0, 64, 64) is not None
        assert "bad.tif: damaged at x=64 y=64" in message(lambda: raster.read(64, 64, 64, 64))
    assert capfd.readouterr().err == ""


def test_other_bad_input_is_one_line_each(tmp_path):
    deep = write_tif(tmp_path / "deep.tif", noise((3, 20, 20), np.uint16, 4000))
    assert "deep.tif: uint16 pixels" in message(lambda: whole(deep))
    assert "--scene_stretch=2,98" in message(lambda: whole(deep))
    assert "scene_stretch: 98,2" in message(lambda: whole(deep, stretch=(98, 2)))
    rgb = write_tif(tmp_path / "rgb.tif", noise((3, 20, 20)))
    assert "scene_bands: 1,2,4; expected one or three numbers" in message(lambda: whole(rgb, bands=(1, 2, 4)))
    assert "scene_bands: 1,2;" in message(lambda: whole(rgb, bands=(1, 2)))
    assert "scene_bands: 0;" in message(lambda: whole(rgb, bands=(0,)))
    two = write_tif(tmp_path / "two.tif", noise((2, 20, 20)))
    assert "two.tif: 2 bands; choose" in message(lambda: whole(two))
    radar = write_tif(tmp_path / "c.tif", noise((1, 20, 20)).astype(np.complex64))
    assert "complex" in message(lambda: whole(radar, stretch=(2, 98)))
    assert "none.tif: no such file" in message(lambda: whole(tmp_path / "none.tif"))
    assert "not a file" in message(lambda: whole(tmp_path))
    (tmp_path / "text.tif").write_text("hello")
    assert "text.tif: not a raster" in message(lambda: whole(tmp_path / "text.tif"))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_ground_control_points_give_a_place(tmp_path):
    from rasterio.control import GroundControlPoint as Point

    corners = ((0, 0), (0, 30), (20, 0), (20, 30))
    points = [Point(row=row, col=col, x=500000 + 2 * col, y=4000000 - 2 * row) for row, col in corners]
    path = tmp_path / "g.tif"
    with rasterio.open(path, "w", driver="GTiff", count=3, height=20, width=30, dtype="uint8") as dataset:
        dataset.gcps = points, rasterio.CRS.from_epsg(32631)
        dataset.write(noise((3, 20, 30)))
    with open_raster(path) as raster:
        assert raster.crs.to_epsg() == 32631
        assert tuple(raster.transform @ (10, 5)) == pytest.approx((500020, 3999990))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_raster_without_a_place_says_so(tmp_path, recwarn):
    path = write_tif(tmp_path / "a.tif", noise((3, 20, 30)), crs=None, transform=None)
    recwarn.clear()
    with open_raster(path) as raster:
        assert raster.crs is None and raster.transform is None
    assert not recwarn.list
