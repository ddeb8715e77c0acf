"""The network against the golden outputs of the published one, its options, and the decoding."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.base.errors import UserError
from src.base.heads import ANCHORS, SCALE_X_Y, Heads
from src.cspdarknet53 import CspDarknet53
from src.layers.activations import ComposedMish, Mish, activation_cell
from src.layers.convolution import conv_block
from src.loss import YoloLoss
from src.yolo import Normalize, SpatialPyramidPooling, YoloDecoder, YoloDetector, YoloV4
from tests.golden import fill_golden

SLIM = {"backbone_shape": (16, 32, 64, 128, 256), "backbone_layers": (1, 1, 2, 2, 1)}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def full_network():
    """The full network for 16 classes with the golden parameters."""
    network = YoloV4(16)
    fill_golden(network)
    return network


class RawAndDecoded(nn.Cell):
    """Raw and decoded maps of one run, so that the full network is compiled once."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.decoder = YoloDecoder()

    def construct(self, x):
        raw32, raw16, raw8 = self.network(x)
        return (raw32, raw16, raw8), self.decoder(raw32, raw16, raw8)


class NetworkLoss(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = YoloLoss(16)

    def construct(self, x, boxes):
        raw32, raw16, raw8 = self.network(x)
        return self.loss(raw32, raw16, raw8, boxes)


def test_parameters_are_the_published_ones_less_the_unused_head(full_network, fixtures):
    lines = (fixtures / "parameters_dota16.txt").read_text().splitlines()
    published = [tuple(line.split("\t")) for line in lines]
    unused = ("feature_map.backblock0.conv5.", "feature_map.backblock0.conv6.")
    wanted = [entry for entry in published if not entry[0].startswith(unused)]
    assert len(published) - len(wanted) == 7
    ours = [
        (parameter.name, str(parameter.shape), "trainable" if parameter.requires_grad else "buffer")
        for parameter in full_network.get_parameters()
    ]
    assert ours == wanted


def test_forward_equals_golden(full_network, fixtures):
    golden = np.load(fixtures / "forward.npz")
    full_network.set_train(False)
    raw, decoded = RawAndDecoded(full_network)(Tensor(golden["x"]))
    for level in range(3):
        np.testing.assert_allclose(raw[level].asnumpy(), golden[f"raw{level}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(decoded[level].asnumpy(), golden[f"decoded{level}"], rtol=0, atol=1e-5)


def test_training_loss_and_statistics_equal_golden(fixtures):
    # The published Mish is composed of three kernels, of which MindSpore's tanh is 1 above 5 on the CPU. In
    # training mode, over 24 values a channel, that grows to 3e-4 of the loss.
    golden = np.load(fixtures / "train_loss.npz")
    network = YoloV4(16, backbone_activation="mish_composed")
    fill_golden(network)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}
    step = NetworkLoss(network).set_train(True)
    total, parts = step(Tensor(golden["x"]), Tensor(golden["boxes"].astype(np.float32)))
    assert float(total.asnumpy()) == pytest.approx(float(golden["loss"]), rel=1e-4)
    assert float(parts.asnumpy().sum()) == pytest.approx(float(golden["loss"]), rel=1e-4)
    after = {parameter.name: parameter.asnumpy() for parameter in network.get_parameters()}
    names = [key for key in golden.files if key.startswith("after:")]
    assert names
    for key in names:
        np.testing.assert_allclose(after[key.removeprefix("after:")], golden[key], rtol=0, atol=1e-4)
    unmoved = [name for name in before if "moving" in name and (before[name] == after[name]).all()]
    assert not unmoved


def test_mish_is_nearer_to_its_definition_than_the_composed_one():
    x = np.linspace(-8, 8, 4001).astype(np.float32)
    exact = x.astype(np.float64) * np.tanh(np.logaddexp(0, x.astype(np.float64)))
    fused = np.abs(activation_cell("mish")(Tensor(x)).asnumpy() - exact).max()
    composed = np.abs(ComposedMish()(Tensor(x)).asnumpy() - exact).max()
    assert fused < 2e-6
    assert composed < 1e-3


@pytest.mark.parametrize("case", ["a", "b"])
def test_decode_equals_golden(case, fixtures):
    golden = np.load(fixtures / "head_and_loss.npz")
    decoded = YoloDecoder()(*[Tensor(golden[f"{case}_raw{level}"]) for level in range(3)])
    for level in range(3):
        np.testing.assert_allclose(
            decoded[level].asnumpy(), golden[f"{case}_decoded{level}"], rtol=1e-5, atol=1e-5
        )


def test_decode_closed_form_of_one_cell():
    rng = np.random.default_rng(0)
    raw8 = rng.normal(0, 1, (1, 3 * 6, 8, 4)).astype(np.float32)  # input 64 high, 32 wide
    empty = [np.zeros((1, 3 * 6, 8 // f, 4 // f), np.float32) for f in (4, 2)]
    decoded = YoloDecoder()(*map(Tensor, (*empty, raw8)))[2].asnumpy()
    anchor, row, column = 1, 5, 3
    t = raw8.reshape(3, 6, 8, 4)[anchor, :, row, column].astype(np.float64)
    s = SCALE_X_Y[0]
    sigmoid = 1 / (1 + np.exp(-t))
    wanted = [
        (s * sigmoid[0] - (s - 1) / 2 + column) / 4,
        (s * sigmoid[1] - (s - 1) / 2 + row) / 8,
        np.exp(t[2]) * ANCHORS[anchor][0] / 32,
        np.exp(t[3]) * ANCHORS[anchor][1] / 64,
        *sigmoid[4:],
    ]
    np.testing.assert_allclose(decoded[0, row, column, anchor], wanted, rtol=1e-5)


def test_slim_network_scales_backbone_and_neck_and_takes_any_multiple_of_32():
    network = YoloV4(3, **SLIM)
    shapes = {parameter.name: parameter.shape for parameter in network.get_parameters()}
    assert shapes["feature_map.backbone.conv0.0.weight"] == (8, 3, 3, 3)
    assert shapes["feature_map.backbone.conv27.0.weight"] == (256, 256, 1, 1)
    assert "feature_map.backbone.layer3.1.conv2.0.weight" in shapes
    assert "feature_map.backbone.layer3.2.conv2.0.weight" not in shapes
    assert shapes["feature_map.conv4.0.weight"] == (128, 512, 1, 1)
    assert shapes["feature_map.conv9.0.weight"] == (32, 64, 1, 1)
    assert shapes["feature_map.backblock1.conv6.weight"] == (24, 64, 1, 1)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) < 5e6
    network.set_train(False)
    detector = YoloDetector(network, YoloDecoder())
    assert [parameter.name for parameter in detector.get_parameters()] == list(shapes)
    for height, width in ((64, 96), (96, 32)):
        decoded = detector(Tensor(np.zeros((1, 3, height, width), np.float32)))
        wanted = [(1, height // stride, width // stride, 3, 8) for stride in (32, 16, 8)]
        assert [level.shape for level in decoded] == wanted


@pytest.mark.parametrize(("padding", "before"), [("same", 0), ("symmetric", 1)])
def test_downsample_padding_by_its_definition(padding, before):
    block = conv_block(2, 3, 3, 2, downsample_padding=padding)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 2, 6, 8)).astype(np.float32)
    weight = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    block[0].weight.set_data(Tensor(weight))
    padded = np.pad(x, ((0, 0), (0, 0), (before, 1), (before, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    wanted = np.einsum("nchwij,ocij->nohw", windows[:, :, :3, :4], weight)
    np.testing.assert_allclose(block[0](Tensor(x)).asnumpy(), wanted, rtol=0, atol=1e-5)


def test_downsample_padding_reaches_every_stride_2_convolution():
    for padding, mode in (("same", "same"), ("symmetric", "pad")):
        network = YoloV4(3, **SLIM, downsample_padding=padding)
        cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.Conv2d)]
        halving = [cell for cell in cells if cell.stride == (2, 2)]
        assert [cell.pad_mode for cell in halving] == [mode] * 7


def test_first_stage_may_have_more_blocks():
    names = [parameter.name for parameter in CspDarknet53(backbone_layers=(3, 1, 1, 1, 1)).get_parameters()]
    added = {name.split(".")[1] for name in names if name.startswith("layer1.")}
    assert added == {"0", "1"}


def test_options_of_the_other_published_variant():
    network = YoloV4(3, **SLIM, backbone_activation="silu", neck_activation="silu", lateral_kernel=3)
    assert network.feature_map.conv9[0].weight.shape == (32, 64, 3, 3)
    kinds = {type(cell) for cell in network.cells() for _, cell in cell.cells_and_names()}
    assert nn.SiLU in kinds
    assert not kinds & {Mish, nn.LeakyReLU}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_shape": (16, 32, 64, 128)}, "backbone_shape"),
        ({"backbone_shape": (16, 32, 64, 128, 255)}, "backbone_shape.*even"),
        ({"backbone_layers": (0, 1, 1, 1, 1)}, "backbone_layers"),
        ({"backbone_input_shape": (32, 64, 128, 256, 500)}, "backbone_input_shape"),
        ({"neck_activation": "relu7", **SLIM}, "relu7"),
        ({"downsample_padding": "valid", **SLIM}, "downsample_padding: 'valid'"),
    ],
)
def test_options_that_make_no_network_are_named(options, message):
    with pytest.raises(UserError, match=message):
        YoloV4(3, **options)


def test_heads_refuse_wrong_anchors():
    with pytest.raises(UserError, match="anchor_scales: yolov4 needs 9 pairs"):
        Heads.of("yolov4", ANCHORS[:6], SCALE_X_Y)
    with pytest.raises(UserError, match="anchor_scales"):
        Heads.of("yolov4", [[0, 4], *ANCHORS[1:]], SCALE_X_Y)
    with pytest.raises(UserError, match="scale_x_y: yolov4-tiny needs 2 factors, for strides 16, 32"):
        Heads.of("yolov4-tiny", ANCHORS[:6], SCALE_X_Y)


def test_pyramid_pooling_equals_its_windows():
    x = np.random.default_rng(3).normal(size=(1, 2, 7, 10)).astype(np.float32)
    pooled = SpatialPyramidPooling()(Tensor(x)).asnumpy()
    for number, window in enumerate((13, 9, 5, 1)):
        r = window // 2
        padded = np.pad(x, ((0, 0), (0, 0), (r, r), (r, r)), constant_values=-np.inf)
        wanted = np.lib.stride_tricks.sliding_window_view(padded, (window, window), axis=(2, 3)).max((4, 5))
        np.testing.assert_array_equal(pooled[:, 2 * number : 2 * number + 2], wanted)


def test_normalize_takes_bytes():
    x = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(Normalize()(Tensor(x)).asnumpy(), (x / 255 - mean) / std, atol=2e-6)


def test_mish_of_any_input():
    """Against float64, also where MindSpore's kernel gives NaN; its gradient too where BatchNorm is frozen."""
    x = np.concatenate([np.linspace(-100, 200, 3001), [1e4, -1e4, 0]]).astype(np.float32)
    wide = x.astype(np.float64)
    soft = np.log1p(np.exp(-np.abs(wide))) + np.maximum(wide, 0)
    expected = wide * np.tanh(soft)
    np.testing.assert_allclose(Mish()(Tensor(x)).asnumpy(), expected, rtol=1e-6, atol=2e-6)
    guarded = Mish().set_train()
    guarded.guarded = True
    np.testing.assert_allclose(guarded(Tensor(x)).asnumpy(), expected, rtol=1e-6, atol=2e-6)
    slope = np.tanh(soft) + wide * (1 - np.tanh(soft) ** 2) / (1 + np.exp(-np.clip(wide, -500, 500)))
    gradient = ms.jit(ms.grad(guarded))(Tensor(x)).asnumpy()
    np.testing.assert_allclose(gradient, slope, atol=1e-3)  # the kernel takes a coarse tanh
