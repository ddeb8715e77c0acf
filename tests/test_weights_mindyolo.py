"""MindYOLO's checkpoints: every name has one of ours, and the converted network computes what MindYOLO's does."""

import ast
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.base.errors import UserError
from src.config import load_config
from src.weights import mindyolo
from src.weights.checkpoint import read_checkpoint
from src.weights.convert import convert
from src.weights.loading import load_backbone, load_network
from src.yolo import YoloDecoder, YoloV4, build_network
from tests import ROOT
from tests.golden import golden_values


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def mindyolo_shapes(fixtures) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all 541 parameters of MindYOLO's network."""
    lines = (fixtures / "parameters_mindyolo_coco80.txt").read_text().splitlines()
    return {line.split("\t")[0]: ast.literal_eval(line.split("\t")[1]) for line in lines}


def write_ckpt(path: Path, values: dict[str, np.ndarray]) -> Path:
    ms.save_checkpoint([{"name": name, "data": Tensor(value)} for name, value in values.items()], str(path))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, fixtures) -> Path:
    """A checkpoint with MindYOLO's names, filled as the golden file says, with an optimizer's slots."""
    values = {name: golden_values(name, shape) for name, shape in mindyolo_shapes(fixtures).items()}
    values["moments.model.model.0.bn.gamma"] = np.zeros(32, np.float32)
    return write_ckpt(tmp_path_factory.mktemp("mindyolo") / "mindyolo.ckpt", values)


@pytest.fixture(scope="module", params=["yolov4.yaml", "yolov4-silu.yaml"])
def config(request):
    """Options of MindYOLO's two variants."""
    return load_config(["--config", str(ROOT / "configs" / "yolov4" / request.param)])


def test_every_name_has_one_of_ours(fixtures):
    shapes = mindyolo_shapes(fixtures)
    network = YoloV4(80, lateral_kernel=3)
    wanted = {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()}
    assert len(shapes) == len(wanted) == 541
    assert {mindyolo.our_name(name): shape for name, shape in shapes.items()} == wanted


def test_names_of_other_things_are_left_alone():
    for name in (
        "model.model.0.conv",
        "model.model.99.conv.weight",
        "moments.model.model.0.conv.weight",
        "lr",
    ):
        assert mindyolo.our_name(name) is None
    assert mindyolo.our_name("ema.model.model.0.conv.weight") == "feature_map.backbone.conv0.0.weight"
    assert mindyolo.our_name("model.model.10.conv1.bn.beta") == "feature_map.backbone.layer2.0.conv1.1.beta"


def test_epsilon_goes_into_the_variance():
    values = {"model.model.0.bn.moving_variance": np.float32([0, 0.5]), "other": np.float32([3])}
    found, _ = mindyolo.translate(values)
    np.testing.assert_allclose(
        found["feature_map.backbone.conv0.1.moving_variance"] + 1e-5, [0.001, 0.501], rtol=1e-6
    )
    assert found["other"] == 3


class Decoded(nn.Cell):
    def __init__(self, network, decoder):
        super().__init__(auto_prefix=False)
        self.network = network
        self.decoder = decoder

    def construct(self, x):
        raw32, raw16, raw8 = self.network(x)
        return self.decoder(raw32, raw16, raw8)


def test_decoded_outputs_equal_golden(config, checkpoint, fixtures):
    golden = np.load(fixtures / "mindyolo_forward.npz")
    network = build_network(config)
    report = load_network(network, checkpoint)
    assert len(report.matched) == 541 and report.optimizer == ["moments.model.model.0.bn.gamma"]
    assert "541 by MindYOLO's names" in str(report)
    assert "downsample_padding" not in str(report)
    network.set_train(False)
    decoder = YoloDecoder(config.heads)
    levels = Decoded(network, decoder)(Tensor(golden["x"]))
    found = np.concatenate([level.asnumpy().reshape(-1, 85) for level in levels])
    wanted = golden["silu_decoded" if config.neck_activation == "silu" else "mish_decoded"][0].copy()
    height, width = golden["x"].shape[2:]
    wanted[:, :4] /= [width, height, width, height]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_conversion_tool_gives_the_same_as_loading(checkpoint, tmp_path):
    config = load_config(["--config", str(ROOT / "configs" / "yolov4" / "yolov4.yaml")])
    result = convert(config, checkpoint, tmp_path / "ours.ckpt")
    assert len(result.values) == 541
    values, _ = read_checkpoint(tmp_path / "ours.ckpt")
    network = build_network(config)
    load_network(network, checkpoint)
    assert set(values) == {parameter.name for parameter in network.get_parameters()}
    for parameter in network.get_parameters():
        np.testing.assert_array_equal(values[parameter.name], parameter.asnumpy())
    lines = (tmp_path / "ours.ckpt.tsv").read_text().splitlines()
    assert "feature_map.backblock3.conv6.bias\t(255,)\tmodel.model.66.m.0.bias" in lines


def test_network_with_other_options_is_told(checkpoint):
    with pytest.raises(UserError, match="lateral_kernel"):
        load_network(YoloV4(80), checkpoint)
    report = load_backbone(YoloV4(3), checkpoint)
    assert len(report.matched) == 360
    assert "downsample_padding symmetric, this network has same" in str(report)


def test_backbone_script(tmp_path, fixtures):
    """The model zoo's names become MindYOLO's, by the arguments and file names of MindYOLO's script, and back."""
    shapes = {
        name: shape for name, shape in mindyolo_shapes(fixtures).items() if int(name.split(".")[2]) < 36
    }
    zoo = {}
    for name, shape in shapes.items():
        ours = mindyolo.our_name(name).removeprefix("feature_map.")
        zoo[ours] = golden_values(name, shape)
    zoo["head.fc.weight"] = np.zeros((10, 4), np.float32)
    source = "cspdarknet53_ascend_v120_imagenet2012_official_cv_bs64_top1acc7854_top5acc9428.ckpt"
    write_ckpt(tmp_path / source, zoo)
    script = ROOT / "utils" / "convert_weight_cspdarknet53.py"
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "360 parameters by MindYOLO's names" in done.stdout and "1 of other layers left out" in done.stdout
    found, _ = read_checkpoint(tmp_path / "yolov4_backbone.ckpt")
    assert {name: value.shape for name, value in found.items()} == shapes
    for name, value in found.items():
        np.testing.assert_array_equal(value, golden_values(name, shapes[name]))
    words = [sys.executable, str(script), "yolov4_backbone.ckpt", "back.ckpt"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = load_backbone(YoloV4(1), tmp_path / "back.ckpt")
    assert len(report.matched) == 360 and not report.other
    done = subprocess.run([*words[:2], "absent.ckpt"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "no such checkpoint" in done.stderr
