"""Small files that ask for much: every size that a file carries is compared with the file before room is made."""

import json
import os
import threading
import tracemalloc

import mindspore as ms
import numpy as np
import pytest

from src.annotations import read_annotations
from src.base.errors import UserError
from src.base.text_file import read_text
from src.base.yaml_text import load_yaml
from src.config import load_config
from src.datasets.dota_labels import read_labels
from src.datasets.formats.labelled import read_lines
from src.datasets.formats.voc import _parse
from src.detect.backends import open_model
from src.detect.network_backend import load_trained
from src.detect.settings import ModelSettings, read_settings
from src.report.history import read_history
from src.runtime.rank_table import _load
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.weights.convert import convert
from src.weights.loading import LoadReport, assign


@pytest.mark.parametrize(
    "key, value",
    [
        ("backbone_shape", [4, 8, 16, 32, 40_000]),
        ("backbone_input_shape", [4, 8, 16, 32, 40_000]),
        ("backbone_layers", [1, 1, 1, 1, 1_000_000]),
        ("testing_shape", 3_200_000),
        ("test_img_shape", [3_200_000, 32]),
        ("labels", [str(number) for number in range(1000)]),
        ("tile_size", 10**9),
    ],
)
def test_options_of_a_checkpoint_are_compared_with_its_parameters(tmp_path, monkeypatch, key, value):
    def built(config):
        raise AssertionError(f"a network of {config[key]} is built")

    monkeypatch.setattr("src.detect.network_backend.build_network", built)
    parameter = ms.Parameter(np.ones((8, 4, 3, 3), np.float32), name="feature_map.conv1.0.weight")
    save_checkpoint([parameter], tmp_path / "a.ckpt", {"options": {key: value}})
    assert (tmp_path / "a.ckpt").stat().st_size < 40_000
    with pytest.raises(UserError, match=key):
        load_trained(load_config([]), str(tmp_path / "a.ckpt"))


def settings(**changes):
    return ModelSettings.from_yaml(
        json.dumps({**load_yaml(ModelSettings.from_config(load_config([])).to_yaml()), **changes}), "m"
    )


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 10**9}, {"batch_size": 4096}, {"input_hw": [32_000_000, 32]}, {"tile_size": 10**9}],
)
def test_settings_of_a_model_are_bounded(changes):
    with pytest.raises(UserError):
        settings(**changes).laid_over(load_config([]))


def write_onnx(path, shape, text):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"yolov4_settings": text})
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "changes, refused",
    [({}, False), ({"batch_size": 4}, True), ({"batch_size": 10**9}, True), ({"input_hw": [64, 128]}, True)],
)
def test_metadata_of_an_onnx_are_compared_with_its_input(tmp_path, changes, refused):
    write_onnx(
        tmp_path / "net.onnx",
        [2, 3, 64, 64],
        settings(**{"batch_size": 2, "input_hw": [64, 64], **changes}).to_yaml(),
    )
    config = load_config([f"--pretrained={tmp_path / 'net.onnx'}"])
    if refused:
        with pytest.raises(UserError, match=r"net\.onnx: settings of the model say an input of"):
            open_model(config)
    else:
        assert open_model(config)[1].batch_size == 2


def holes(path):
    """A file of 4 GB that takes no place on the disk."""
    with path.open("wb") as handle:
        handle.truncate(4 << 30)
    return path


READERS = {
    "o.yaml": lambda path: load_config([f"--config_path={path}"]),
    "m.onnx.yaml": lambda path: read_settings(path.with_name("m.onnx")),
    "a.json": read_annotations,
    "hccl.json": _load,
    "a.xml": _parse,
    "a.txt": read_lines,
    "P1.txt": lambda path: read_labels(path, ("ship",)),
    "results.csv": read_history,
    "a.ckpt": read_checkpoint,
    "a.onnx": lambda path: open_model(load_config([f"--pretrained={path}"])),
    "a.mindir": lambda path: open_model(load_config([f"--pretrained={path}"])),
    "a.weights": lambda path: convert(load_config([]), path, path.with_name("o.ckpt")),
}


@pytest.mark.parametrize("name", READERS)
def test_sparse_files_of_gigabytes_take_no_memory(tmp_path, name):
    path = holes(tmp_path / name)
    if name.endswith(".weights"):
        with path.open("rb+") as handle:
            handle.write(np.array([0, 2, 0], np.int32).tobytes())
    tracemalloc.start()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        READERS[name](path)
    network = (
        300 << 20 if name.endswith(".weights") else 0
    )  # which is built before the file is compared with it
    assert tracemalloc.get_traced_memory()[1] < (100 << 20) + network
    tracemalloc.stop()


@pytest.mark.parametrize(
    "name", [name for name in READERS if name.endswith((".yaml", ".json", ".xml", ".txt"))]
)
def test_pipes_are_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    found = []

    def read():
        try:
            READERS[name](tmp_path / name)
        except UserError as error:
            found.append(str(error))
        else:
            found.append("")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert found, "it waits"
    assert name == "m.onnx.yaml" or name in found[0]  # settings that are no file are none


def test_text_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + "grün".encode())
    assert read_text(tmp_path / "a") == "grün"
    with pytest.raises(ValueError, match="larger than 7 bytes"):
        read_text(tmp_path / "a", 7)
    with pytest.raises(OSError):
        read_text(tmp_path / "none")


def test_a_float64_that_is_too_large_for_float32_is_not_finite(tmp_path):
    from mindspore import nn

    class Network(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = ms.Parameter(np.ones(2, np.float32), name="weight")

    with pytest.raises(UserError, match="weight holds values that are not finite"):
        assign(Network(), {"weight": np.array([1, 1e300])}, LoadReport(tmp_path / "a.ckpt"))


@pytest.mark.parametrize(
    "text, key",
    [("lr: 1\nlr: 2\n", "lr"), ("a: {b: 1, 'b': 2}", "b"), ("- {c: 1, d: 2, c: 3}", "c")],
)
def test_duplicate_keys_of_yaml_are_named(tmp_path, text, key):
    with pytest.raises(ValueError, match=f"duplicate key '{key}'"):
        load_yaml(text)
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"o\.yaml.*duplicate key '{key}'"):
        load_config([f"--config_path={tmp_path / 'o.yaml'}"])
    assert load_yaml("a: &x {b: 1}\nc: {<<: *x, b: 2}")["c"] == {"b": 2}  # merging is no duplicate


def test_duplicate_keys_of_coco_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [{"id": 1, "file_name": "a", "id": 2}], "annotations": []}')
    with pytest.raises(UserError, match=r"a\.json.*duplicate key 'id'"):
        read_annotations(tmp_path / "a.json")
