"""Weights by name: fetched once, continued, converted once; and what is said where that cannot be."""

import hashlib
import shutil

import numpy as np
import pytest

from src.base.coco_classes import COCO_CLASSES
from src.base.errors import UserError
from src.config import load_config
from src.detect.backends import open_model
from src.remote import download
from src.runtime.device import Runtime
from src.train.start import BACKBONE, find_start, with_start_options
from src.weights import by_name, darknet
from src.weights.by_name import weights_file
from src.weights.checkpoint import read_checkpoint
from src.weights.darknet_cfg import options_of_weights
from src.weights.layer_order import convolutions, darknet_layers
from src.weights.named_weights import NamedWeights, named_weights
from src.yolo import YoloV4, YoloV4Tiny
from tests.darknet_file import write_random_weights
from tests.file_server import Behaviour, file_server

CUT = 29


@pytest.fixture(scope="module")
def tiny_layers():
    return darknet_layers(YoloV4Tiny(80))


@pytest.fixture(scope="module")
def released(tmp_path_factory, tiny_layers):
    """A `.weights` of the length of the original yolov4-tiny.weights, with random values."""
    config = load_config(["--network=yolov4-tiny"])
    cfg = darknet.cfg_text(tiny_layers, darknet.Layout(), input_hw=(416, 416), heads=config.heads, classes=80)
    path = tmp_path_factory.mktemp("released") / "yolov4-tiny.weights"
    return write_random_weights(path, cfg, gain=1.0)


def name_it(monkeypatch, address: str, size: int = 0, sha256: str = "") -> None:
    row = NamedWeights("net-coco", "yolov4-tiny", 80, size, sha256, address)
    monkeypatch.setattr(by_name, "named_weights", lambda: {row.name: row})
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))


def test_the_table_is_of_files_as_long_as_their_networks(tiny_layers):
    layers = {
        "yolov4": darknet_layers(YoloV4(80, downsample_padding="symmetric")),
        "yolov4-tiny": tiny_layers,
    }
    cut = {"yolov4": 137, "yolov4-tiny": CUT}
    darknets = 0
    for name, row in named_weights().items():
        assert row.address.startswith("https://") and len(row.sha256) in (0, 64)
        if "/darknet/" in row.address:
            found = layers[row.network] if row.classes else layers[row.network][: cut[row.network]]
            assert row.size == 20 + 4 * darknet.Layout().ends(convolutions(found))[-1], name
            darknets += 1
    assert darknets == 4
    assert load_config([]).transfer_checkpoint_url == (
        f"{named_weights()['yolov4-zoo-coco'].address}#sha256={named_weights()['yolov4-zoo-coco'].sha256}"
    )


def test_a_name_is_fetched_continued_and_converted_once(tmp_path, monkeypatch, released):
    content = released.read_bytes()
    behaviour = Behaviour(content, break_after=[5_000_000])
    with file_server(behaviour) as url:
        name_it(monkeypatch, f"{url}/yolov4-tiny.weights", len(content), hashlib.sha256(content).hexdigest())
        config = load_config(["--pretrained=net-coco", f"--download_path={tmp_path}", "--device_target=CPU"])
        backend, config = open_model(config)
        assert [request[1] for request in behaviour.requests] == [None, "bytes=5000000-"]
    assert config.network == "yolov4-tiny" and tuple(config.labels) == COCO_CLASSES
    assert config.pretrained.endswith(".ckpt") and config.pretrained.startswith(str(tmp_path))
    maps = backend.predict(np.zeros((1, 3, 64, 96), np.uint8))
    assert [level.shape for level in maps] == [(1, 2, 3, 3, 85), (1, 4, 6, 3, 85)]
    # Without the server: all is there.
    assert str(weights_file("net-coco", "pretrained", str(tmp_path))) == config.pretrained
    # Its own network is needed to train on from it, and the message says so.
    words = ["--pretrained_checkpoint=net-coco", f"--download_path={tmp_path}"]
    start = find_start(load_config(words))
    with pytest.raises(
        UserError, match=r"holds yolov4-tiny, network is yolov4 .default.; add --network=yolov4-tiny"
    ):
        with_start_options(load_config(words), start, Runtime())
    assert (
        tuple(with_start_options(load_config([*words, "--network=yolov4-tiny"]), start, Runtime()).labels)
        == COCO_CLASSES
    )


def test_offline_names_the_way_round(tmp_path, monkeypatch):
    with file_server(Behaviour(b"")) as url:
        pass  # its port is closed by now
    name_it(monkeypatch, f"{url}/yolov4-tiny.weights")
    with pytest.raises(UserError, match=r"net-coco is not here yet.*works as well: --pretrained FILE"):
        weights_file("net-coco", "pretrained", str(tmp_path))


def test_a_file_of_another_size_is_not_kept(tmp_path, monkeypatch):
    with file_server(Behaviour(b"\0\0\0\0\2\0\0\0" * 8)) as url:
        name_it(monkeypatch, f"{url}/yolov4-tiny.weights", 24_251_276)
        with pytest.raises(UserError, match="64 bytes came, the release has 24251276"):
            weights_file("net-coco", "pretrained", str(tmp_path))
    assert not list(tmp_path.glob("*.weights"))


def test_a_cut_file_is_a_backbone_to_start_from(tmp_path, released, tiny_layers):
    end = 20 + 4 * darknet.Layout().ends(convolutions(tiny_layers[:CUT]))[-1]
    path = tmp_path / "yolov4-tiny.conv.29"
    path.write_bytes(released.read_bytes()[:end])
    words = [f"--pretrained_checkpoint={path}", f"--download_path={tmp_path}", "--network=yolov4-tiny"]
    assert find_start(load_config(words)).kind == BACKBONE


def test_a_cfg_beside_the_file_tells_its_heads(tmp_path, released):
    """Masks of any order and number of anchors, as in the original yolov4-tiny.cfg."""
    path = tmp_path / "own.weights"
    shutil.copyfile(released, path)
    assert options_of_weights(path)["labels"] == list(COCO_CLASSES)
    text = "[net]\nwidth=512 # comment\nheight=320\n" + "[convolutional]\nsize=3\nstride=2\n" * 21
    for mask in ("3,4,5", "1,2,3"):
        text += (
            f"[yolo]\nmask = {mask}\nanchors = 1,2, 3,4, 5,6, 7,8, 9,10, 11,12\nclasses=2\nscale_x_y = 1.05\n"
        )
    path.with_suffix(".cfg").write_text(text)
    path.with_suffix(".names").write_text("ship\nplane\n\n")
    found = options_of_weights(path)
    assert found["network"] == "yolov4-tiny" and found["labels"] == ["ship", "plane"]
    assert found["anchor_scales"] == [[3, 4], [5, 6], [7, 8], [7, 8], [9, 10], [11, 12]]
    assert found["test_img_shape"] == [320, 512] and found["scale_x_y"] == [1.05, 1.05]
    assert "tile_size" not in found
    path.with_suffix(".names").write_text("ship\n")
    with pytest.raises(UserError, match=r"names 1 classes, the \.cfg beside it has 2"):
        options_of_weights(path)
    path.with_suffix(".cfg").write_text(text.replace("mask = 3,4,5", "mask = 3,4"))
    with pytest.raises(UserError, match=r"own\.cfg: .*mask 3,4 of 2 anchors"):
        options_of_weights(path)
    path.with_suffix(".cfg").write_text("no sections")
    with pytest.raises(UserError, match=r"does not begin with \[net\]"):
        options_of_weights(path)


def test_what_nobody_knows_is_named(tmp_path):
    with pytest.raises(UserError, match=r"yolov4-tny: .*names that are known: yolov4-tiny-coco, "):
        open_model(load_config(["--pretrained=yolov4-tny"]))
    path = tmp_path / "odd.weights"
    path.write_bytes(bytes(4) + b"\2\0\0\0" + bytes(40))
    with pytest.raises(UserError, match=r"nothing tells which network it is of; put its \.cfg"):
        weights_file(str(path), "pretrained", str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        weights_file(str(tmp_path / "absent.weights"), "pretrained", str(tmp_path))


def test_a_checkpoint_of_the_cache_carries_what_photographs_need(tmp_path, released):
    path = weights_file(str(released), "pretrained", str(tmp_path))
    options = read_checkpoint(path)[1]["options"]
    assert options["tile_size"] == 8192 and options["image_std"] == [1.0, 1.0, 1.0]
    assert options["anchor_scales"][0] == [23, 27] and options["test_img_shape"] == [416, 416]
