"""Reading images: every kind that is read right, and every kind that is refused by name."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from src.base.errors import UserError
from src.imaging.image_io import read_rgb, read_size


def smooth(height: int, width: int) -> np.ndarray:
    """An image that JPEG keeps well."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def test_images_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 30, 3), np.uint8)
    grey = rng.integers(0, 256, (20, 30), np.uint8)
    alpha = rng.integers(0, 256, (20, 30, 1), np.uint8)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.concatenate([colours, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_rgb(tmp_path / "rgb.png"), colours)
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.stack([grey] * 3, axis=2))
    assert np.array_equal(read_rgb(tmp_path / "rgba.png"), colours)


@pytest.mark.parametrize(
    "name,mode,tolerance",
    [
        ("palette.png", "P", 0),
        ("bit.png", "1", 0),
        ("grey_alpha.png", "LA", 0),
        ("cmyk.jpg", "CMYK", 1),
        ("cmyk.tif", "CMYK", 0),
        ("grey.jpg", "L", 0),
        ("rgb.tif", "RGB", 0),
        ("rgb.bmp", "RGB", 0),
        ("rgb.tga", "RGB", 0),  # OpenCV reads neither this nor PCX
        ("rgb.pcx", "RGB", 0),
        ("palette.gif", "P", 0),
    ],
)
def test_kinds_against_pillow(tmp_path, name, mode, tolerance):
    Image.fromarray(smooth(40, 60)).convert(mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    ours = read_rgb(tmp_path / name, (60, 40))
    assert ours.dtype == np.uint8 and ours.flags.c_contiguous
    assert np.abs(ours.astype(int) - expected).max() <= tolerance


def test_an_orientation_tag_does_not_turn_the_image(tmp_path):
    """Boxes are given for the stored pixels; where decoders turn them anyway (TIFF) the file is refused."""
    stored = smooth(40, 60)
    for value in (3, 6):
        tag = Image.Exif()
        tag[0x0112] = value
        Image.fromarray(stored).save(tmp_path / "turned.png", exif=tag)
        Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=tag, quality=95)
        assert np.array_equal(read_rgb(tmp_path / "turned.png", (60, 40)), stored)
        assert np.abs(read_rgb(tmp_path / "turned.jpg", (60, 40)).astype(int) - stored).mean() < 3
        Image.fromarray(stored).save(tmp_path / "turned.tif", tiffinfo={0x0112: value})
        with pytest.raises(UserError, match=r"turned\.tif: an orientation tag"):
            read_rgb(tmp_path / "turned.tif")


def test_images_that_are_refused(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "deep.png"), image.astype(np.uint16) * 200)
    cv2.imwrite(str(tmp_path / "deep.tif"), image.astype(np.uint16) * 200)
    cv2.imwrite(str(tmp_path / "ok.jpg"), image)
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "ok.jpg").read_bytes()[:-300])
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    for name, named in (
        ("deep.png", "convert it to 8-bit"),
        ("deep.tif", "convert it to 8-bit"),
        ("text.jpg", "not an image"),
        ("half.jpg", "truncated"),
        ("none.jpg", "no such image"),
        ("folder.jpg", "not a file"),
        ("pipe.jpg", "not a file"),
    ):
        with pytest.raises(UserError, match=named) as caught:
            read_rgb(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(UserError, match="60x40, its annotation says 61x40"):
        read_rgb(tmp_path / "ok.jpg", (61, 40))
    with pytest.raises(UserError, match="after a rotation"):
        read_rgb(tmp_path / "ok.jpg", (40, 60))
    with pytest.raises(UserError, match="over the limit"):
        read_rgb(tmp_path / "ok.jpg", max_pixels=100)


def test_a_thumbnail_does_not_hide_that_a_jpeg_is_cut(tmp_path):
    """The header holds a small JPEG with an end marker of its own."""
    whole, thumbnail = io.BytesIO(), io.BytesIO()
    Image.fromarray(smooth(200, 200)).save(whole, "JPEG")
    Image.fromarray(smooth(40, 60)).save(thumbnail, "JPEG")
    content = thumbnail.getvalue()
    segment = b"\xff\xec" + (len(content) + 2).to_bytes(2, "big") + content
    data = whole.getvalue()[:2] + segment + whole.getvalue()[2:]
    (tmp_path / "whole.jpg").write_bytes(data + bytes(100_000))  # cameras append things behind the end
    assert read_rgb(tmp_path / "whole.jpg").shape == (200, 200, 3)
    (tmp_path / "cut.jpg").write_bytes(data[:-500])
    with pytest.raises(UserError, match="truncated"):
        read_rgb(tmp_path / "cut.jpg")


def test_threads_leave_the_limit_of_pillow_as_it_was(tmp_path):
    Image.fromarray(smooth(40, 60)).save(tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    assert before is not None
    with ThreadPoolExecutor(8) as pool:
        sizes = set(pool.map(lambda _: read_size(tmp_path / "a.png"), range(1000)))
    assert sizes == {(60, 40)} and before == Image.MAX_IMAGE_PIXELS


@given(
    kind=st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "TGA", "PCX"]),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=5),
    keep=st.floats(0, 1),
)
@settings(max_examples=250, deadline=5000)
def test_damaged_images_are_read_or_refused(tmp_path_factory, kind, edits, keep):
    stream = io.BytesIO()
    Image.fromarray(smooth(24, 32)).save(stream, kind)
    data = bytearray(stream.getvalue()[: int(len(stream.getvalue()) * max(keep, 0.1))])
    for place, content in edits:
        start = int(place * len(data) * (0.1 if len(content) % 2 else 1))  # headers more often
        data[start : start + len(content)] = content
    path = tmp_path_factory.mktemp("damaged") / "image"
    path.write_bytes(data)
    try:
        image = read_rgb(path, max_pixels=10**6)
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert image.dtype == np.uint8 and image.shape == (*read_size(path)[::-1], 3)
