"""Darknet's files: layer order, sizes, round trips, damaged files, and the same numbers as OpenCV 4 computes."""

import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.base.errors import UserError
from src.base.heads import Heads
from src.config import load_config
from src.weights import darknet
from src.weights.convert import convert
from src.weights.layer_order import convolutions, darknet_layers
from src.weights.loading import load_backbone, load_network
from src.yolo import YoloDecoder, YoloV4, build_network
from tests import ROOT, darknet_cases
from tests.darknet_file import HEADER_0_1, HEADER_0_2, random_arrays, read_cfg, write_random_weights
from tests.golden import fill_golden

PLAIN = ((0, 0, 0), (1, 1, 1))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SLIM = {"backbone_shape": (8, 8, 16, 16, 32), "backbone_layers": (1, 1, 1, 1, 1)}
CFG = {"input_hw": (64, 64), "heads": Heads.of("yolov4", [[8, 8]] * 9, (1.2, 1.1, 1.05))}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def full_layers():
    """Layers of the full-size network of 80 classes."""
    return darknet_layers(YoloV4(80, downsample_padding="symmetric"))


def slim(classes: int = 3, **options) -> YoloV4:
    network = YoloV4(classes, **SLIM, **{"downsample_padding": "symmetric", **options})
    fill_golden(network)
    return network


def values_of(network) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


def slim_cfg(network) -> str:
    layers = darknet_layers(network)
    layout = darknet.own_layout(layers, *PLAIN)
    return darknet.cfg_text(layers, layout, classes=network.num_classes, **CFG)


def test_full_size_files_are_as_long_as_the_published_ones(full_layers):
    ends = darknet.Layout().ends(convolutions(full_layers))
    assert 20 + 4 * ends[-1] == 257_717_640  # yolov4.weights
    cut = [layer.convolution for layer in full_layers[:137] if layer.convolution]
    assert 20 + 4 * ends[len(cut) - 1] == 170_038_676  # yolov4.conv.137
    assert len(ends) == 110


def test_cfg_has_darknets_layer_numbers(full_layers):
    cfg = darknet.cfg_text(full_layers, darknet.Layout(), classes=80, **CFG)
    sections = read_cfg(cfg)
    assert len(sections) == 162
    numbers = {kind: [n for n, s in enumerate(sections) if s.kind == kind] for kind in ("yolo", "upsample")}
    assert numbers == {"yolo": [139, 150, 161], "upsample": [118, 128]}
    assert [sections[n].settings["mask"] for n in numbers["yolo"]] == ["0,1,2", "3,4,5", "6,7,8"]
    assert [sections[n].settings["scale_x_y"] for n in numbers["yolo"]] == ["1.2", "1.1", "1.05"]
    assert [sections[n].stride for n in numbers["yolo"]] == [8, 16, 32]
    # Taken from the backbone behind each upsampling, and joined with what was upsampled, the backbone's first.
    assert (sections[119].inputs, sections[129].inputs) == ((85,), (54,))
    assert (sections[121].inputs, sections[131].inputs) == ((120, 118), (130, 128))
    assert sections[113].inputs == (112, 110, 108, 107)  # 13x13, 9x9, 5x5 and the input
    assert (sections[142].inputs, sections[153].inputs) == ((141, 126), (152, 116))
    assert sections[104].channels == 1024 and sections[104].stride == 32
    backbone = [
        n for n, layer in enumerate(full_layers) if layer.convolution and layer.convolution.in_backbone
    ]
    assert backbone[-1] == 104
    assert sum(section.kind == "shortcut" for section in sections) == 23


@pytest.mark.parametrize("header", [HEADER_0_2, HEADER_0_1])
def test_random_file_is_read_in_darknets_order(tmp_path, header):
    network = slim()
    cfg = slim_cfg(network)
    path = write_random_weights(tmp_path / "a.weights", cfg, header)
    arrays = {(layer, what): value for layer, what, value in random_arrays(cfg)}
    layers = darknet_layers(network)
    result = darknet.read_weights(path, layers, *PLAIN)
    assert set(result.values) == set(values_of(network))
    assert not result.notes
    values = result.values
    stage = "feature_map.backbone.conv"
    # Layers 1 to 4: down, past, route, into.
    np.testing.assert_array_equal(values[f"{stage}1.0.weight"], arrays[1, "weight"])
    np.testing.assert_array_equal(values[f"{stage}6.0.weight"], arrays[2, "weight"])
    np.testing.assert_array_equal(values[f"{stage}2.0.weight"], arrays[4, "weight"])
    words = ("bias", "scale", "mean", "variance")
    for word, ours in zip(words, ("beta", "gamma", "moving_mean", "moving_variance")):
        np.testing.assert_array_equal(values[f"{stage}2.1.{ours}"], arrays[4, word])
    swapped = [
        number for number, layer in enumerate(layers) if layer.convolution and layer.convolution.swapped
    ]
    assert len(swapped) == 2
    for number, name in zip(swapped, ("backblock0", "backblock1")):
        weight = arrays[number, "weight"]
        half = weight.shape[1] // 2
        ours = values[f"feature_map.{name}.conv0.0.weight"]
        np.testing.assert_array_equal(ours[:, :half], weight[:, half:])
        np.testing.assert_array_equal(ours[:, half:], weight[:, :half])
    last = max(number for number, _ in arrays)
    np.testing.assert_array_equal(values["feature_map.backblock3.conv6.bias"], arrays[last, "bias"])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("normalisation", [PLAIN, IMAGENET])
@pytest.mark.parametrize("lateral_kernel", [1, 3])
def test_round_trip(tmp_path, padding, normalisation, lateral_kernel):
    network = slim(downsample_padding=padding, lateral_kernel=lateral_kernel)
    layers, values = darknet_layers(network), values_of(network)
    layout = darknet.own_layout(layers, *normalisation)
    darknet.write_weights(tmp_path / "a.weights", layers, values, layout)
    result = darknet.read_weights(tmp_path / "a.weights", layers, *normalisation)
    assert set(result.values) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(result.values[name], value)
    # Sizes as Darknet's rules give them for the cfg.
    cfg = darknet.cfg_text(layers, layout, classes=3, **CFG)
    wanted = len(HEADER_0_2) + sum(value.nbytes for _, _, value in random_arrays(cfg))
    assert (tmp_path / "a.weights").stat().st_size == wanted


def test_foreign_file_for_options_that_differ_is_read_with_a_note(tmp_path):
    path = write_random_weights(tmp_path / "a.weights", slim_cfg(slim()))
    result = darknet.read_weights(path, darknet_layers(slim(downsample_padding="same")), *IMAGENET)
    assert len(result.notes) == 1 and "downsample_padding symmetric, image_mean 0,0,0" in result.notes[0]


def test_normalisation_of_an_exported_file_must_be_the_options(tmp_path):
    network = slim()
    layers = darknet_layers(network)
    layout = darknet.own_layout(layers, *IMAGENET)
    darknet.write_weights(tmp_path / "a.weights", layers, values_of(network), layout)
    with pytest.raises(UserError, match=r"0\.485, 0\.456, 0\.406, 0\.229, 0\.224, 0\.225; set image_mean"):
        darknet.read_weights(tmp_path / "a.weights", layers, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def whole(tmp_path):
    """Bytes of a slim network's file, the network and its layers."""
    network = slim()
    path = write_random_weights(tmp_path / "whole.weights", slim_cfg(network))
    return path.read_bytes(), darknet_layers(network), tmp_path / "changed.weights"


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.3, 0.7, 0.9999])
def test_truncated_file(whole, keep):
    data, layers, path = whole
    path.write_bytes(data[: int(len(data) * keep) - 3 if keep > 0.001 else int(len(data) * keep)])
    with pytest.raises(UserError, match=r"changed\.weights.*(truncated|not a Darknet)") as error:
        darknet.read_weights(path, layers, *PLAIN)
    if keep > 0.001:
        assert str(len(data)) in str(error.value) and str(path.stat().st_size) in str(error.value)


@pytest.mark.parametrize("extra", [1, 4, 400])
def test_trailing_bytes(whole, extra):
    data, layers, path = whole
    path.write_bytes(data + bytes(extra))
    with pytest.raises(UserError, match=rf"{len(data) + extra} bytes are too many: expected {len(data)} "):
        darknet.read_weights(path, layers, *PLAIN)


def test_other_class_count_is_told(whole):
    data, _, path = whole
    path.write_bytes(data)
    with pytest.raises(UserError, match="holds a network of 3 classes, labels has 16"):
        darknet.read_weights(path, darknet_layers(slim(16)), *PLAIN)
    with pytest.raises(UserError, match="holds a network of 3 classes, labels has 1;"):
        darknet.read_weights(path, darknet_layers(slim(1)), *PLAIN)


def test_what_is_no_darknet_file_and_what_no_network_holds(whole):
    data, layers, path = whole
    path.write_text("<html>Quota exceeded</html>" * 100)
    with pytest.raises(UserError, match="not a Darknet weights file"):
        darknet.read_weights(path, layers, *PLAIN)
    values = np.frombuffer(data[20:], "<f4").copy()
    values[12:16] *= -1  # variances of the first convolution, behind 4 biases, scales and means
    path.write_bytes(data[:20] + values.tobytes())
    with pytest.raises(UserError, match=r"convolution 0 variance, byte 68.*negative variances"):
        darknet.read_weights(path, layers, *PLAIN)


def test_partial_file_and_classifier_give_the_backbone(tmp_path, whole):
    data, layers, path = whole
    backbone = sum(convolution.in_backbone for convolution in convolutions(layers))
    end = 20 + 4 * darknet.Layout().ends(convolutions(layers))[backbone - 1]
    for content, note in (
        (data[:end], f"the first {backbone} of {len(convolutions(layers))} convolutions, up to "),
        (data[:end] + bytes(4 * 1000 * (32 + 1)), "1000 classes left out"),
    ):
        path.write_bytes(content)
        result = darknet.read_weights(path, layers, *PLAIN)
        assert any(note in text for text in result.notes)
        assert all(name.startswith("feature_map.backbone.") for name in result.values)
        assert len(result.values) == 5 * backbone


def test_converted_files_load(tmp_path):
    """weights -> ckpt -> network, ckpt -> weights, and a backbone -> pretrained_backbone."""
    folder = tmp_path / "case"
    folder.mkdir()
    network, config = darknet_cases.write_case("darknet", folder)
    source = folder / "darknet.weights"
    result = convert(config, source, tmp_path / "out.ckpt")
    report = load_network(network, tmp_path / "out.ckpt")
    assert len(report.matched) == len(result.values) == len(values_of(network))
    for name, value in values_of(network).items():
        np.testing.assert_array_equal(value, result.values[name])
    table = (tmp_path / "out.ckpt.tsv").read_text().splitlines()
    assert len(table) == 1 + len(result.values)
    assert table[1] == "feature_map.backbone.conv0.1.beta\t(8,)\tconvolution 0 bias, byte 20"
    convert(config, tmp_path / "out.ckpt", tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes()[20:] == source.read_bytes()[20:]
    assert (tmp_path / "again.names").read_text() == "ship\nplane\n"
    again = (tmp_path / "again.cfg").read_text()
    assert again == (folder / "darknet.cfg").read_text()

    darknet_cases.write_case("backbone", folder)
    convert(config, folder / "backbone.weights", tmp_path / "backbone.ckpt")
    fill_golden(network)
    report = load_backbone(network, tmp_path / "backbone.ckpt")
    wanted = [name for name in values_of(network) if name.startswith("feature_map.backbone.")]
    assert sorted(report.matched) == sorted(wanted)
    convert(config, tmp_path / "backbone.ckpt", tmp_path / "backbone.weights")
    assert (tmp_path / "backbone.weights").read_bytes()[20:] == (folder / "backbone.weights").read_bytes()[
        20:
    ]
    assert not (tmp_path / "backbone.names").exists()


def test_tool_prints_what_matched_and_one_line_of_error(tmp_path):
    _, _ = darknet_cases.write_case("darknet", tmp_path)
    tool = ROOT / "utils" / "convert_weights.py"
    words = ["--from", str(tmp_path / "darknet.weights"), *darknet_cases.OPTIONS["darknet"]]

    def run(*more):
        return subprocess.run([sys.executable, str(tool), *words, *more], capture_output=True, text=True)

    good = run("--out", str(tmp_path / "o.ckpt"))
    assert good.returncode == 0, good.stderr
    assert "parameters matched" in good.stdout
    bad = run("--out", str(tmp_path / "o.ckpt"), "--labels=ship")
    assert bad.returncode == 2
    assert (
        bad.stderr.strip().splitlines()[-1].startswith("error: ") and "2 classes, labels has 1" in bad.stderr
    )
    bad = run("--out", str(tmp_path / "o.onnx"))
    assert bad.returncode == 2 and ".ckpt or .weights" in bad.stderr
    bad = run("--out", str(tmp_path / "o.ckpt"), "--bn_epsilon=-1")
    assert bad.returncode == 2 and "--bn_epsilon: -1.0 must be" in bad.stderr


class Outputs(nn.Cell):
    """Raw and decoded maps, and the backbone's last."""

    def __init__(self, network, decoder):
        super().__init__(auto_prefix=False)
        self.network = network
        self.decoder = decoder

    def construct(self, x):
        raw = self.network(x)
        last = self.network.feature_map.backbone(x)[2]
        return raw, self.decoder(*raw), last


def our_outputs(network, config, image):
    """Raw maps and decoded cells in Darknet's order of heads, and the backbone's last map, of an image in 0..1."""
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (config.image_mean, config.image_std))
    network.set_train(False)
    decoder = YoloDecoder(config.heads)
    raw, decoded, last = Outputs(network, decoder)(Tensor((image - mean) / std))
    order = -1 if config.network == "yolov4" else 1  # YOLOv4 begins with stride 8, the small ones end with it
    raw = [level.asnumpy() for level in raw[::order]]
    decoded = [level.asnumpy().reshape(-1, level.shape[-1]) for level in decoded[::order]]
    return raw, decoded, last.asnumpy()


def assert_equal_outputs(found, raw, decoded):
    """OpenCV's outputs against ours; its class columns are products, cut off at 0.2."""
    above = below = 0
    for level in range(len(raw)):
        scale = max(1.0, np.abs(raw[level]).max())
        np.testing.assert_allclose(found[f"raw{level}"], raw[level], rtol=0, atol=1e-4 * scale)
        theirs, ours = found[f"decoded{level}"], decoded[level]
        assert theirs.shape == ours.shape
        np.testing.assert_allclose(theirs[:, :5], ours[:, :5], rtol=1e-4, atol=1e-4)
        product = ours[:, 4:5] * ours[:, 5:]
        sure = np.abs(product - 0.2) > 1e-3
        wanted = np.where(product > 0.2, product, 0)
        above += (product[sure] > 0.2).sum()
        below += (product[sure] < 0.2).sum()
        np.testing.assert_allclose(theirs[:, 5:][sure], wanted[sure], rtol=0, atol=1e-4)
    assert above and below


@pytest.mark.parametrize("case", darknet_cases.CASES)
def test_opencv_4_computes_the_same(tmp_path, fixtures, case):
    with np.load(fixtures / "darknet_opencv.npz") as stored:
        found = {
            key.removeprefix(f"{case}_"): stored[key] for key in stored.files if key.startswith(f"{case}_")
        }
    network, config = darknet_cases.write_case(case, tmp_path)
    assert darknet_cases.digest(tmp_path, case) == str(found["digest"]), "not the file that OpenCV has read"
    if case != "exported":
        convert(config, tmp_path / f"{case}.weights", tmp_path / "converted.ckpt")
        load = load_backbone if case == "backbone" else load_network
        load(network, tmp_path / "converted.ckpt")
    raw, decoded, last = our_outputs(network, config, darknet_cases.input_image())
    if case == "backbone":
        np.testing.assert_allclose(found["map"], last, rtol=0, atol=1e-3)
    else:
        assert_equal_outputs(found, raw, decoded)


@pytest.mark.slow
def test_full_size_network_in_opencv_4(tmp_path, opencv4):
    """yolov4.weights' own layout with random values, and our export of a network with published options."""
    image = np.random.default_rng(6).uniform(0, 1, (1, 3, 96, 128)).astype(np.float32)
    plain = ["--image_mean=0,0,0", "--image_std=1,1,1", "--downsample_padding=symmetric"]
    config = load_config([*plain, "--test_img_shape=96,128"])
    network = build_network(config)
    layers = darknet_layers(network)
    settings = {
        "input_hw": config.eval_input_hw,
        "heads": config.heads,
        "classes": config.num_classes,
    }
    cfg = tmp_path / "yolov4.cfg"
    cfg.write_text(darknet.cfg_text(layers, darknet.Layout(), **settings))
    weights = write_random_weights(tmp_path / "yolov4.weights", cfg.read_text(), gain=1.0)
    convert(config, weights, tmp_path / "yolov4.ckpt")
    assert len(load_network(network, tmp_path / "yolov4.ckpt").matched) == 541
    found = darknet_cases.run_opencv(opencv4, cfg, weights, image)
    assert_equal_outputs(found, *our_outputs(network, config, image)[:2])
    weights.unlink()

    config = load_config(["--test_img_shape=96,128"])
    network = build_network(config)
    fill_golden(network)
    ms.save_checkpoint(network, str(tmp_path / "ours.ckpt"))
    convert(config, tmp_path / "ours.ckpt", tmp_path / "ours.weights")
    found = darknet_cases.run_opencv(opencv4, tmp_path / "ours.cfg", tmp_path / "ours.weights", image)
    assert_equal_outputs(found, *our_outputs(network, config, image)[:2])
