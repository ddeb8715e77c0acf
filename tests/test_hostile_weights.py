"""Hostile archives, weights and models: pickles, changed bytes, states and settings that are none."""

import json
import os
import pickle
import re
import zipfile

import mindspore as ms
import numpy as np
import pytest

from src.base.errors import UserError
from src.base.yaml_text import load_yaml
from src.config import load_config
from src.detect.backends import open_model
from src.detect.settings import ModelSettings
from src.imaging.image_io import read_rgb
from src.remote.archive import unpack_once
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.weights.loading import load_network
from src.yolo import build_network
from tests.tiny import tiny_config


def test_zip_entries_with_terminal_codes_are_shown_as_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("../\x1b[2J\nx", b"")
    with pytest.raises(UserError) as caught:
        unpack_once(tmp_path / "a.zip", tmp_path / "out")
    assert str(caught.value).isprintable()


class Code:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_pickles_under_other_names_are_not_run(tmp_path):
    mark = tmp_path / "mark"
    data = pickle.dumps(Code(mark))
    for name in ("net.ckpt", "net.mindir", "net.onnx"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            open_model(load_config([f"--pretrained={tmp_path / name}", "--device_target=CPU"]))
    np.save(tmp_path / "1.npy", np.array([Code(mark)], object), allow_pickle=True)
    for name in ("1.png", "1.tif"):
        (tmp_path / "1.npy").rename(tmp_path / name)
        with pytest.raises(UserError, match=name):
            read_rgb(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "1.npy")
    assert not mark.exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("out"))
    path = tmp_path_factory.mktemp("weights") / "net.ckpt"
    network = build_network(config)
    save_checkpoint(network, path, {"step": 3, "steps_per_epoch": 3, "best_map": -1.0, "best_epoch": 0})
    return config, network, path


def test_a_changed_byte_in_a_checkpoint_is_found(checkpoint, tmp_path, capfd):
    """Its values have no names in the way that would tell: without a checksum it would load, and lie."""
    _, _, path = checkpoint
    good = path.read_bytes()
    for place in np.linspace(30, len(good) - 30, 40).astype(int).tolist():
        (tmp_path / "net.ckpt").write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(UserError, match="not a readable MindSpore checkpoint"):
            read_checkpoint(tmp_path / "net.ckpt")
    assert capfd.readouterr().err == ""  # MindSpore's own log says nothing beside


def test_a_published_checkpoint_with_values_that_are_not_finite_is_refused(checkpoint, tmp_path):
    _, network, path = checkpoint
    values = read_checkpoint(path)[0]
    values["feature_map.conv1.0.weight"].flat[3] = np.nan
    parameters = [{"name": name, "data": ms.Tensor(value)} for name, value in values.items()]
    ms.save_checkpoint(parameters, str(tmp_path / "nan.ckpt"))
    with pytest.raises(UserError, match=r"feature_map\.conv1\.0\.weight holds values that are not finite"):
        load_network(network, tmp_path / "nan.ckpt")


@pytest.mark.parametrize(
    "state",
    ["[]", "3", "null", "{", '{"step": "3"}', '{"step": -1}', '{"step": 1e99}', '{"steps_per_epoch": 0}', "[" * 5000,
     '{"best_map": NaN}', '{"epoch_sums": [1]}', '{"epoch_sums": 1}', '{"options": []}', '{"step": true}'],
)  # fmt: skip
def test_a_training_state_that_is_none(checkpoint, tmp_path, state):
    value = [{"name": "a", "data": ms.Tensor(np.ones(2, np.float32))}]
    ms.save_checkpoint(value, str(tmp_path / "a.ckpt"), append_dict={"train_state": state})
    with pytest.raises(UserError, match="its training state is damaged"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_onnx_metadata_that_is_no_text(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"yolov4_settings": "XXXX"})
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString().replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
    with pytest.raises(UserError, match=r"net\.onnx"):
        open_model(load_config([f"--pretrained={tmp_path / 'net.onnx'}"]))


@pytest.mark.parametrize(
    "key, value",
    [("input_hw", [".inf", 96]), ("batch_size", ".inf"), ("anchors", "[[1]]"), ("image_std", [0, 0, 0]),
     ("class_names", "[]"), ("scale_x_y", [".nan", 1, 1]), ("input_hw", [-32, -32])],
)  # fmt: skip
def test_settings_of_a_model_that_make_no_network(tmp_path, key, value):
    config = tiny_config(tmp_path, tmp_path)
    lines = ModelSettings.from_config(config).to_yaml().splitlines()
    text = "\n".join(
        line for line in lines if not re.match(rf"{key}:|- |  - ", line) or not line.startswith(key)
    )
    document = {**load_yaml("\n".join(lines)), key: load_yaml(f"x: {value}".replace("'", ""))["x"]}
    assert text
    with pytest.raises(UserError):
        ModelSettings.from_yaml(json.dumps(document), "m.yaml").laid_over(load_config([]))


@pytest.mark.parametrize("kind", ["quantised", "sparse", "complex"])
def test_pytorch_tensors_that_are_no_plain_numbers(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from src.weights.torch_state import read_state

    value = {
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": lambda: torch.ones(2, 2).to_sparse(),
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
    }[kind]()
    torch.save({"a": value}, tmp_path / "a.pth")
    try:
        assert all(value.dtype == np.float32 for value in read_state(tmp_path / "a.pth").values())
    except UserError as error:
        assert "a.pth" in str(error)
