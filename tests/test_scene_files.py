"""What a raster may lead GDAL to: no request to a network, no file outside of its folder, no block of gigabytes."""

import os
import struct
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from src.base.errors import UserError
from src.imaging.image_io import read_rgb
from src.imaging.raster import open_raster
from tests.file_server import Behaviour, file_server

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

MOSAIC = (
    '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    '<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
    "</VRTRasterBand></VRTDataset>"
)
MAP_SERVER = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}.tif</ServerUrl></Service><DataWindow>'
    "<UpperLeftX>0</UpperLeftX><UpperLeftY>64</UpperLeftY><LowerRightX>64</LowerRightX><LowerRightY>0</LowerRightY>"
    "<SizeX>64</SizeX><SizeY>64</SizeY><TileLevel>0</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>"
    "</DataWindow><BandsCount>1</BandsCount><BlockSizeX>64</BlockSizeX><BlockSizeY>64</BlockSizeY></GDAL_WMS>"
)


def write_tif(path, value=77, side=64, overviews=None, **options):
    shape = {"width": side, "height": side, "count": 1, "dtype": "uint8", **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", **shape) as sink:
            sink.write(np.full((1, side, side), value, np.uint8))
            if overviews:
                sink.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=overviews)
    return path


def look(path, **options):
    """All that inference does with a scene: pixels, and the preview, which is made of overviews."""
    with open_raster(path, **options) as raster:
        return raster.read(0, 0, 64, 64), raster.preview(16)


def overview_file(remote):
    def write(folder, url):
        return write_tif(folder / "s.tif", overviews=remote.format(url=url))

    return write


def beside(ending, text):
    def write(folder, url):
        (folder / f"s.tif{ending}").write_text(text.format(url=url))
        return write_tif(folder / "s.tif")

    return write


def mosaic(name, relative=0, **others):
    def write(folder, url):
        for other, text in others.items():
            (folder / f"inner.{other}").write_text(text.format(url=url))
        (folder / "s.vrt").write_text(
            MOSAIC.format(name=name.format(url=url.replace("://", ":&#47;&#47;")), relative=relative)
        )
        return folder / "s.vrt"

    return write


def mosaic_of_overviews(folder, url):
    write_tif(folder / "a.tif", overviews=f"/vsicurl/{url}/a.tif")
    (folder / "s.vrt").write_text(MOSAIC.format(name="a.tif", relative=1))
    return folder / "s.vrt"


REMOTE = MOSAIC.replace("{relative}", "0").replace("{name}", "/vsicurl/{url}/b.tif")
ENCODED = "&#47;vsicurl&#x2f;{url}/c.tif"
ATTACKS = {
    "vsicurl": overview_file("/vsicurl/{url}/1.tif"),
    "streaming": overview_file("/vsicurl_streaming/{url}/2.tif"),
    "webhdfs": overview_file("/vsiwebhdfs/{url}/webhdfs/v1/3.tif"),
    "s3": overview_file("/vsis3/bucket/4.tif"),
    "gzip": overview_file("/vsigzip//vsicurl/{url}/5.tif"),
    "subfile": overview_file("/vsisubfile/0,/vsicurl/{url}/6.tif"),
    "cached": overview_file("/vsicached?file=/vsicurl/{url}/7.tif"),
    "aux": beside(
        ".aux.xml",
        '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/vsicurl/{url}/8.tif</MDI></Metadata>'
        "</PAMDataset>",
    ),
    "ovr": beside(".ovr", REMOTE),
    "ovr of a map server": beside(".ovr", MAP_SERVER),
    "mask": beside(".msk", REMOTE),
    "encoded": mosaic(ENCODED),
    "cdata": mosaic("&#47;<![CDATA[vsicurl/]]>{url}/9.tif"),
    "vrt in a vrt": mosaic("inner.vrt", 1, vrt=REMOTE),
    "vrt called tif in a vrt": mosaic("inner.tif", 1, tif=REMOTE),
    "map server called tif in a vrt": mosaic("inner.tif", 1, tif=MAP_SERVER),
    "map server within a vrt": mosaic(MAP_SERVER.replace("<", "&lt;").replace("GDAL_", "GDAL&#95;")),
    "overviews of a part of a vrt": mosaic_of_overviews,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_scene_makes_a_request(tmp_path, monkeypatch, attack):
    """The server counts; with keys and an address of S3 in the environment, as a cloud job has them."""
    behaviour = Behaviour(write_tif(tmp_path / "answer.tif", 200).read_bytes())
    with file_server(behaviour) as url:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AK")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SK")
        monkeypatch.setenv("AWS_S3_ENDPOINT", url.removeprefix("http://"))
        monkeypatch.setenv("AWS_HTTPS", "NO")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTING", "FALSE")
        with pytest.raises(UserError):
            look(ATTACKS[attack](tmp_path, url))
    assert behaviour.requests == []


@pytest.mark.parametrize("scheme", ["/vsicurl/", "/vsicurl_streaming/", "/vsigzip//vsicurl/", ""])
def test_gdal_itself_makes_no_request_once_a_scene_was_opened(tmp_path, scheme):
    """The second wall, behind the checks of names: what GDAL would be asked for it does not fetch."""
    look(write_tif(tmp_path / "s.tif"))
    behaviour = Behaviour((tmp_path / "s.tif").read_bytes())
    with file_server(behaviour) as url, rasterio.Env(), pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(f"{scheme}{url}/{len(scheme)}.tif").read()
    assert behaviour.requests == []
    with rasterio.Env() as env:
        assert not {"WMS", "WCS", "WMTS", "HTTP", "SQLite", "PDF", "netCDF"} & set(env.drivers())


def write_outside(tmp_path):
    (tmp_path / "in").mkdir()
    return write_tif(tmp_path / "secret.tif", 123), tmp_path / "in" / "s.vrt"


@pytest.mark.parametrize(
    "relative, name", [(1, "../secret.tif"), (0, "{secret}"), (1, "sub/../../secret.tif")]
)
def test_a_vrt_leaves_its_folder_by_option_alone(tmp_path, relative, name):
    secret, path = write_outside(tmp_path)
    path.write_text(MOSAIC.format(relative=relative, name=name.format(secret=secret)))
    with pytest.raises(UserError, match=r"s\.vrt: names .*secret\.tif, which is outside of its folder"):
        look(path)
    assert (look(path, outside=True)[0] == 123).all()


@pytest.mark.parametrize("place", ["{secret}", "../secret.tif", ":::BASE:::../secret.tif", "fifo"])
def test_overviews_of_another_folder_are_refused(tmp_path, place):
    secret, path = write_outside(tmp_path)
    os.mkfifo(path.with_name("fifo"))  # which would be waited for without end
    path = write_tif(path.with_name("s.tif"), overviews=place.format(secret=secret))
    with pytest.raises(UserError, match=r"s\.tif: names .* as its overviews"):
        look(path)


@pytest.mark.parametrize(
    "text, named",
    [
        (
            '<!DOCTYPE V [<!ENTITY a SYSTEM "/etc/passwd">]>' + MOSAIC.format(name="&a;", relative=1),
            "document type",
        ),
        (MOSAIC.format(name="a.tif", relative=1).replace("<VRTRaster", '<VRTRaster subClass="VRTRaw'), "XML"),
        (
            MOSAIC.format(name="a.tif", relative=1).replace('Byte"', 'Byte" subClass="VRTRawRasterBand"'),
            "VRTRaw",
        ),
        (MOSAIC.format(name="a.tif", relative=1).replace("SimpleSource", "KernelFilteredSource"), "Kernel"),
        (
            MOSAIC.format(name="a.tif", relative=1).replace("SourceFilename", "sourcefilename"),
            "sourcefilename",
        ),
        (MOSAIC.format(name="none.tif", relative=1), "no such file"),
        (MOSAIC.format(name="GTIFF_DIR:1:a.tif", relative=1), "plain files of this host"),
        ("<VRTDataset>" * 200, "deeply"),
        ("<a/>", "not a raster"),
        ("", "XML"),
    ],
)
def test_a_vrt_that_is_no_mosaic_of_plain_files(tmp_path, text, named):
    write_tif(tmp_path / "a.tif")
    (tmp_path / "s.vrt").write_text(text)
    with pytest.raises(UserError, match=named):
        look(tmp_path / "s.vrt")


def test_a_vrt_as_gdal_writes_it_is_read(tmp_path):
    """Two halves side by side with nodata, a mask, statistics and a coordinate system."""
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(0.5, 0, 448000, 0, -0.5, 5412000)}
    (tmp_path / "parts").mkdir()
    write_tif(tmp_path / "parts" / "a.tif", 10, **place)
    write_tif(tmp_path / "parts" / "b.tif", 20, **place)
    source = (
        "<ComplexSource><SourceFilename relativeToVRT='1'>parts/{}.tif</SourceFilename><SourceBand>1</SourceBand>"
        "<SrcRect xOff='0' yOff='0' xSize='64' ySize='64'/><DstRect xOff='{}' yOff='0' xSize='64' ySize='64'/>"
        "<NODATA>0</NODATA></ComplexSource>"
    )
    (tmp_path / "s.vrt").write_text(
        "<!-- made by hand --><VRTDataset rasterXSize='128' rasterYSize='64'><SRS>EPSG:32631</SRS>"
        "<GeoTransform>448000, 0.5, 0, 5412000, 0, -0.5</GeoTransform><VRTRasterBand dataType='Byte' band='1'>"
        "<NoDataValue>0</NoDataValue><ColorInterp>Gray</ColorInterp>"
        f"{source.format('a', 0)}{source.format('b', 64)}</VRTRasterBand></VRTDataset>"
    )
    with open_raster(tmp_path / "s.vrt") as raster:
        assert raster.crs == rasterio.CRS.from_epsg(32631) and raster.transform == place["transform"]
        image = raster.read(0, 0, 128, 64)
    assert (image[:, :64] == 10).all() and (image[:, 64:] == 20).all()


def test_overviews_and_masks_of_the_own_folder_are_read(tmp_path):
    path = write_tif(tmp_path / "s.tif", 77, 512, tiled=True, blockxsize=64, blockysize=64)
    with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
        dataset.write_mask(np.pad(np.zeros((512, 256), np.uint8), ((0, 0), (0, 256)), constant_values=255))
    assert path.with_name("s.tif.ovr").is_file()
    with rasterio.open(path.with_name("s.tif.ovr"), "r+") as dataset:
        dataset.write(np.full((1, *dataset.shape), 99, np.uint8))
    with open_raster(path) as raster:
        assert (raster.read(300, 0, 64, 64) == 77).all() and raster.read(0, 0, 64, 64) is None
        assert raster.preview(256).max() == 99  # of the overviews


# ---------------------------------------------------------------- blocks

SHORT, LONG = 3, 4


def tiff(*directories, big=False):
    """A TIFF of directories {tag: value}, without pixels."""
    head, count_form, entry_form, place_form = (
        (struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16), "<Q", "<HHQQ", "<Q")
        if big
        else (struct.pack("<2sHI", b"II", 42, 8), "<H", "<HHII", "<I")
    )
    data = head
    for number, tags in enumerate(directories):
        entries = b"".join(
            struct.pack(entry_form, tag, LONG, 1, value) for tag, value in sorted(tags.items())
        )
        end = len(data) + struct.calcsize(count_form) + len(entries) + struct.calcsize(place_form)
        last = number + 1 == len(directories)
        data += struct.pack(count_form, len(tags)) + entries + struct.pack(place_form, 0 if last else end)
    return data


def directory(side, tile=None, rows=None, kind=0):
    """Deflated grey pixels in a tile or strips."""
    blocks = {322: tile, 323: tile, 324: 100, 325: 100} if tile else {273: 100, 278: rows, 279: 100}
    return {254: kind, 256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 284: 1, **blocks}


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "directories",
    [
        [directory(80_000, tile=80_000)],
        [directory(80_000, rows=80_000)],
        [directory(64, tile=64), directory(32, tile=80_000, kind=1)],
        [directory(64, tile=64), directory(64, tile=80_000, kind=4)],
    ],
    ids=["tile", "strip", "overview", "mask"],
)
def test_a_block_of_gigabytes_in_a_file_of_a_kilobyte_is_refused(tmp_path, directories, big):
    (tmp_path / "s.tif").write_bytes(tiff(*directories, big=big).ljust(1000, b"\0"))
    with (
        pytest.raises(UserError, match=r"s\.tif: a tile or strip of 6,400,000,000 bytes"),
        open_raster(tmp_path / "s.tif"),
    ):
        pass
    write_tif(tmp_path / "t.tif")
    (tmp_path / "s.tif").rename(tmp_path / "t.tif.ovr")
    with pytest.raises(UserError, match=r"t\.tif\.ovr: a tile or strip"), open_raster(tmp_path / "t.tif"):
        pass


def test_directories_in_a_circle_end(tmp_path):
    data = bytearray(tiff(directory(64, tile=64)))
    data[-4:] = struct.pack("<I", 8)
    (tmp_path / "s.tif").write_bytes(bytes(data).ljust(1000, b"\0"))
    with pytest.raises(UserError, match=r"s\.tif"):
        look(tmp_path / "s.tif")


def test_a_scene_of_more_pixels_than_any_has(tmp_path):
    write_tif(tmp_path / "a.tif")
    side = 2_000_000_000
    text = MOSAIC.format(name="a.tif", relative=1).replace('Size="64"', f'Size="{side}"')
    (tmp_path / "s.vrt").write_text(text)
    with (
        pytest.raises(UserError, match=f"{side}x{side} pixels, over the limit"),
        open_raster(tmp_path / "s.vrt"),
    ):
        pass


# ---------------------------------------------------------------- pixels as `read_rgb` has them


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_white_is_zero_and_few_bits_are_as_in_an_image(tmp_path, bits):
    values = np.random.default_rng(0).integers(0, 1 << bits, (20, 32)).astype(np.uint8)
    light = (values.astype(int) * 255 // ((1 << bits) - 1)).astype(np.uint8)
    for photometric, expected in (("MINISBLACK", light), ("MINISWHITE", 255 - light)):
        path = tmp_path / f"{photometric}.tif"
        with rasterio.open(
            path, "w", "GTiff", 32, 20, 1, dtype="uint8", nbits=bits, photometric=photometric
        ) as sink:
            sink.write(values[None])
        with open_raster(path) as raster:
            found = raster.read(0, 0, 32, 20)
        assert (found == expected[..., None]).all()
        assert (np.asarray(Image.open(path).convert("L")) == expected).all()
        if bits in (1, 8):  # those between are none that OpenCV decodes
            assert (read_rgb(path) == found).all()
        if bits == 1:  # a palette of two colours to GDAL
            continue
        with open_raster(path, stretch=(0, 100)) as raster:
            assert np.abs(raster.read(0, 0, 32, 20)[..., 0].astype(int) - expected).max() <= 1


def test_plain_images_through_gdal_are_as_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    with open_raster(tmp_path / "a.png", bands=(1, 2, 3)) as raster:
        assert (raster.read(0, 0, 30, 20) == image[..., ::-1]).all()
