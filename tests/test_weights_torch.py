"""PyTorch state dicts: matched by layer order with shapes checked; with PyTorch itself where it is installed."""

import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.base.errors import UserError
from src.base.heads import Heads
from src.config import load_config
from src.weights import darknet, torch_state
from src.weights.convert import convert
from src.weights.layer_order import convolutions, darknet_layers
from src.yolo import YoloV4
from tests import darknet_cases
from tests.darknet_file import random_arrays, read_cfg, write_random_weights

PLAIN = ((0, 0, 0), (1, 1, 1))
CFG = {"input_hw": (64, 96), "heads": Heads.of("yolov4", [[8, 8]] * 9, (1.2, 1.1, 1.05))}
# Keys of three public versions: the convolution's and its BatchNorm's, {0} counts layers, {1} convolutions.
STYLES = {
    "module_list": ("module_list.{0}.Conv2d", "module_list.{0}.BatchNorm2d"),
    "models": ("models.{0}.conv{1}", "models.{0}.bn{1}"),
    "sequential": ("part{0}.conv{1}.conv.0", "part{0}.conv{1}.conv.1"),
}


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def layers():
    """Layers of a slim network of 2 classes."""
    shape = {"backbone_shape": (8, 8, 16, 16, 32), "backbone_layers": (1, 1, 2, 1, 1)}
    return darknet_layers(YoloV4(2, **shape, downsample_padding="symmetric"))


def cfg_of(layers) -> str:
    return darknet.cfg_text(layers, darknet.Layout(), classes=2, **CFG)


def state_dict(cfg: str, style: str = "module_list", seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of a random `.weights` file as a state dict, in PyTorch's order."""
    by_layer: dict[int, dict[str, np.ndarray]] = {}
    for number, what, value in random_arrays(cfg, seed):
        by_layer.setdefault(number, {})[what] = value
    state = {}
    for count, (number, values) in enumerate(by_layer.items()):
        convolution, norm = (key.format(number, count) for key in STYLES[style])
        state[f"{convolution}.weight"] = values["weight"]
        if "scale" not in values:
            state[f"{convolution}.bias"] = values["bias"]
            continue
        for word, what in (
            ("weight", "scale"),
            ("bias", "bias"),
            ("running_mean", "mean"),
            ("running_var", "variance"),
        ):
            state[f"{norm}.{word}"] = values[what]
        state[f"{norm}.num_batches_tracked"] = np.array(7)
    return state


@pytest.mark.parametrize("style", STYLES)
def test_same_values_as_from_darknets_file(tmp_path, layers, style):
    cfg = cfg_of(layers)
    path = write_random_weights(tmp_path / "a.weights", cfg)
    wanted = darknet.read_weights(path, layers, *PLAIN).values
    state = state_dict(cfg, style)
    found = torch_state.match_state(tmp_path / "a.pth", state, layers)
    assert set(found.values) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found.values[name], value)
    assert set(found.sources.values()) == {key for key in state if not key.endswith("num_batches_tracked")}
    assert found.notes == ["matched by layer order, which is taken to be Darknet's"]


def test_partial_state_and_other_layers(tmp_path, layers):
    state = state_dict(cfg_of(layers))
    backbone = [c for c in convolutions(layers) if c.in_backbone]
    count = 0
    part = {"anchors": np.zeros((3, 3, 2))}
    for key, value in state.items():
        count += value.ndim == 4
        if count > len(backbone):
            break
        part[key] = value
    part["fc.weight"] = np.zeros((1000, 32))
    found = torch_state.match_state(tmp_path / "a.pth", part, layers)
    assert set(found.values) == {parameter.name for c in backbone for parameter in c.parameters}
    assert "2 of other layers left out: anchors, fc.weight" in found.notes
    del part["module_list.0.Conv2d.weight"]
    with pytest.raises(UserError, match=rf"{len(backbone) - 1} convolutions"):
        torch_state.match_state(tmp_path / "a.pth", part, layers)


def test_other_networks_are_refused_by_key(tmp_path, layers):
    cfg, path = cfg_of(layers), tmp_path / "a.pth"
    state = state_dict(cfg)
    other = {**state, "module_list.1.Conv2d.weight": state["module_list.1.Conv2d.weight"][:, :3]}
    with pytest.raises(
        UserError, match=r"module_list\.1\.Conv2d\.weight, convolution 1, has shape \(8, 3, 3, 3\)"
    ):
        torch_state.match_state(path, other, layers)
    classes = darknet.cfg_text(
        darknet_layers(
            YoloV4(5, **{"backbone_shape": (8, 8, 16, 16, 32), "backbone_layers": (1, 1, 2, 1, 1)})
        ),
        darknet.Layout(),
        classes=5,
        **CFG,
    )
    with pytest.raises(UserError, match=r"has shape \(30,.*has \(21,.*set labels"):
        torch_state.match_state(path, state_dict(classes), layers)
    fused = {key: value for key, value in state.items() if "running" not in key}
    with pytest.raises(UserError, match="fused BatchNorm"):
        torch_state.match_state(path, fused, layers)
    with pytest.raises(UserError, match=r"holds \d+ convolutions, the network has \d+"):
        torch_state.match_state(path, {**state, "more.weight": np.zeros((4, 4, 1, 1))}, layers)
    negative = {
        **state,
        "module_list.0.BatchNorm2d.running_var": -state["module_list.0.BatchNorm2d.running_var"],
    }
    with pytest.raises(UserError, match=r"module_list\.0\.BatchNorm2d\.running_var.*negative variances"):
        torch_state.match_state(path, negative, layers)


def test_absence_of_pytorch_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04")
    config = load_config(darknet_cases.OPTIONS["darknet"])
    with pytest.raises(UserError, match=r"a\.pth: reading PyTorch files needs PyTorch: pip install torch"):
        convert(config, tmp_path / "a.pth", tmp_path / "a.ckpt")


def torch_network(torch, cfg: str):
    """A PyTorch module that computes what a `.cfg` says; keys as those of the module_list version."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module_list = torch.nn.ModuleList()
            self.sections = read_cfg(cfg)
            for section in self.sections:
                parts = torch.nn.Sequential()
                if section.kind == "convolutional":
                    norm = "batch_normalize" in section.settings
                    size, stride = int(section.settings["size"]), int(section.settings["stride"])
                    shape = section.in_channels, section.channels, size, stride, size // 2
                    parts.add_module("Conv2d", torch.nn.Conv2d(*shape, bias=not norm))
                    if norm:
                        parts.add_module("BatchNorm2d", torch.nn.BatchNorm2d(section.channels, eps=1e-4))
                    activations = {"mish": torch.nn.Mish(), "leaky": torch.nn.LeakyReLU(0.1)}
                    parts.add_module(
                        "activation", activations.get(section.settings["activation"], torch.nn.Identity())
                    )
                elif section.kind == "maxpool":
                    size = int(section.settings["size"])
                    parts.add_module("pool", torch.nn.MaxPool2d(size, 1, size // 2))
                elif section.kind == "upsample":
                    parts.add_module("upsample", torch.nn.Upsample(scale_factor=2))
                self.module_list.append(parts)

        def forward(self, x):
            maps, heads = [], []
            for section, parts in zip(self.sections, self.module_list):
                sources = [maps[number] for number in section.inputs] or [x]
                if section.kind == "route":
                    maps.append(torch.cat(sources, 1))
                elif section.kind == "shortcut":
                    maps.append(sources[0] + sources[1])
                else:
                    maps.append(parts(sources[0]))
                if section.kind == "yolo":
                    heads.append(sources[0])
            return heads

    return Network().eval()


def test_pytorch_network_computes_the_same(tmp_path):
    """A state dict of PyTorch's own, BatchNorm epsilon 0.0001, against the converted network."""
    torch = pytest.importorskip("torch")
    network, config = darknet_cases.write_case("darknet", tmp_path)
    theirs = torch_network(torch, (tmp_path / "darknet.cfg").read_text())
    state = {
        key: torch.from_numpy(value.copy())
        for key, value in state_dict((tmp_path / "darknet.cfg").read_text()).items()
    }
    theirs.load_state_dict(state)
    torch.save({"epoch": 3, "model": theirs.state_dict()}, tmp_path / "yolov4.pt")
    result = convert(config, tmp_path / "yolov4.pt", tmp_path / "ours.ckpt", epsilon=1e-4)
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(result.values[parameter.name]))
    network.set_train(False)
    image = darknet_cases.input_image()
    with torch.no_grad():
        wanted = [head.numpy() for head in theirs(torch.from_numpy(image))]
    found = [level.asnumpy() for level in network(Tensor(image))][::-1]
    for ours, head in zip(found, wanted):
        np.testing.assert_allclose(ours, head, rtol=0, atol=2e-4)


class Harmless:
    """Not a tensor: unpickling it would run code of its module."""

    def __reduce__(self):
        return print, ("code of the file was run",)


def test_pickled_code_is_not_run(tmp_path, capfd):
    torch = pytest.importorskip("torch")
    torch.save({"model": Harmless()}, tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"code\.pt: no state dict that loads without running code"):
        torch_state.read_state(tmp_path / "code.pt")
    assert "was run" not in capfd.readouterr().out
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list, not a state dict"):
        torch_state.read_state(tmp_path / "list.pt")
    data = (tmp_path / "list.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"short\.pt.*truncated"):
        torch_state.read_state(tmp_path / "short.pt")
