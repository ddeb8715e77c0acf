"""Hostile images: bombs, and files that are lists of other files."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from src.base.errors import UserError
from src.imaging.image_io import read_rgb
from tests import ROOT


def png(width, height, *chunks):
    def chunk(kind, data, length=None):
        body = kind + data
        return (
            struct.pack(">I", len(data) if length is None else length)
            + body
            + struct.pack(">I", zlib.crc32(body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*each) for each in chunks)
        + chunk(b"IEND", b"")
    )


IMAGES = """
import resource, sys, time
from pathlib import Path
from src.base.errors import UserError
from src.imaging.image_io import read_rgb
read_rgb(Path(sys.argv[1]))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    started = time.process_time()
    try:
        read_rgb(Path(path))
        print("read", path)
    except UserError as error:
        print("refused", error)
    assert time.process_time() - started < 5
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) >> 10, "MB")
"""


def test_images_that_are_bombs_take_no_memory(tmp_path):
    """A header of 400 million pixels, rows that unpack a thousandfold, a chunk that claims 2 GB."""
    side = 19_000
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(200)) + rows.flush()
    files = {
        "good.png": png(2, 2, (b"IDAT", zlib.compress(bytes(14)))),
        "rows.png": png(side, side, (b"IDAT", packed)),
        "header.png": png(60_000, 60_000, (b"IDAT", b"")),
        "chunk.png": png(2, 2, (b"IDAT", zlib.compress(bytes(14)), 0x7FFFFFF0)),
        "header.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 19_000, 19_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "header.jpg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\x00\xff\x00\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01"
        b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\x00\xff\xd9",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = [sys.executable, "-c", IMAGES, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["refused"] * 5, done.stdout
    assert int(lines[-1].split()[0]) < 100


def test_a_large_image_of_real_content_is_no_bomb(tmp_path):
    from src.imaging import image_io

    path = tmp_path / "large.png"
    path.write_bytes(png(2, 2, (b"IDAT", zlib.compress(bytes(14)))))
    assert read_rgb(path).shape == (2, 2, 3)
    assert image_io.MAX_PIXELS > image_io._LARGE_PIXELS  # a 20,000 x 20,000 scene of 5 MB and more is read


@pytest.mark.parametrize(
    "content",
    [
        b'<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        b"<SourceFilename>%s</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>",
        b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/%s</ServerUrl></Service></GDAL_WMS>",
    ],
)
def test_a_tif_that_is_a_list_of_other_files_is_none(tmp_path, content):
    rasterio = pytest.importorskip("rasterio")
    from src.imaging.raster import open_raster

    secret = tmp_path / "secret.tif"
    with rasterio.open(secret, "w", "GTiff", 2, 2, 1, dtype="uint8") as sink:
        sink.write(np.full((1, 2, 2), 77, np.uint8))
    (tmp_path / "scene.tif").write_bytes(content.replace(b"%s", str(secret).encode()))
    with pytest.raises(UserError, match=r"scene\.tif: not a raster"), open_raster(tmp_path / "scene.tif"):
        pass


@pytest.mark.parametrize(
    "source", ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1/a.tif", "WMS:http://x"]
)
def test_a_vrt_names_files_of_this_host_alone(tmp_path, source):
    rasterio = pytest.importorskip("rasterio")
    from src.imaging.raster import open_raster

    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 2, 2, 1, dtype="uint8") as sink:
        sink.write(np.full((1, 2, 2), 77, np.uint8))
    text = (
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    (tmp_path / "s.vrt").write_text(text.format(source))
    with pytest.raises(UserError, match="plain files of this host"), open_raster(tmp_path / "s.vrt"):
        pass
    (tmp_path / "s.vrt").write_text(text.format("a.tif"))
    with open_raster(tmp_path / "s.vrt") as raster:
        assert (raster.read(0, 0, 2, 2) == 77).all()
