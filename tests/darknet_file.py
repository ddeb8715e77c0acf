"""Darknet's file rules written down a second time, so that tests do not check the converter by itself."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER_0_2 = struct.pack("<iiiQ", 0, 2, 5, 32013312)
HEADER_0_1 = struct.pack("<iiii", 0, 1, 0, 32013)


@dataclass
class Section:
    """A section of a `.cfg`, its settings as text, and what it hands on: channels and stride."""

    kind: str
    settings: dict[str, str]
    channels: int = 3
    stride: int = 1
    inputs: tuple[int, ...] = ()
    in_channels: int = 3


def read_cfg(text: str) -> list[Section]:
    """Sections after [net], with the layers that each takes its input from and what comes out."""
    sections: list[Section] = []
    for block in text.split("["):
        if not block.strip():
            continue
        kind, _, body = block.partition("]")
        pairs = (line.split("=", 1) for line in body.split("\n") if "=" in line)
        sections.append(Section(kind, {key.strip(): value.strip() for key, value in pairs}))
    assert sections[0].kind == "net"
    layers = sections[1:]
    for number, layer in enumerate(layers):
        _connect(layers, number, layer)
    return layers


def _connect(layers: list[Section], number: int, layer: Section) -> None:
    layer.inputs = (number - 1,) if number else ()
    if layer.kind == "route":
        steps = [int(word) for word in layer.settings["layers"].split(",")]
        layer.inputs = tuple(number + step if step < 0 else step for step in steps)
    elif layer.kind == "shortcut":
        layer.inputs = (number - 1, number + int(layer.settings["from"]))
    sources = [layers[source] for source in layer.inputs]
    if sources:
        assert len({source.stride for source in sources}) == 1, f"layer {number} joins maps of two sizes"
        layer.channels, layer.stride = sources[0].channels, sources[0].stride
    layer.in_channels = layer.channels
    if layer.kind == "route":
        layer.channels = sum(source.channels for source in sources) // int(layer.settings.get("groups", 1))
    elif layer.kind == "shortcut":
        assert sources[0].channels == sources[1].channels
    elif layer.kind == "convolutional":
        layer.channels = int(layer.settings["filters"])
        layer.stride *= int(layer.settings["stride"])
    elif layer.kind == "maxpool":
        layer.stride *= int(layer.settings["stride"])
    elif layer.kind == "upsample":
        layer.stride //= int(layer.settings["stride"])


def random_arrays(cfg: str, seed: int = 0, gain: float = 1.3) -> list[tuple[int, str, np.ndarray]]:
    """Values of a network in Darknet's order: (layer, what it is, array).

    `gain` keeps a slim network's outputs from being the same everywhere; a deep one overflows with more than 1.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for number, layer in enumerate(read_cfg(cfg)):
        if layer.kind != "convolutional":
            continue
        out, size = layer.channels, int(layer.settings["size"])
        arrays.append((number, "bias", rng.normal(0, 0.1, out)))
        if layer.settings.get("batch_normalize") == "1":
            arrays.append((number, "scale", rng.uniform(0.5, 1.5, out)))
            arrays.append((number, "mean", rng.normal(0, 0.1, out)))
            arrays.append((number, "variance", rng.uniform(0.5, 1.5, out)))
        fan_in = layer.in_channels * size * size
        weight = rng.normal(0, gain * np.sqrt(1 / fan_in), (out, layer.in_channels, size, size))
        arrays.append((number, "weight", weight))
    return [(number, what, value.astype("<f4")) for number, what, value in arrays]


def write_random_weights(path: Path, cfg: str, header: bytes = HEADER_0_2, gain: float = 1.3) -> Path:
    """A `.weights` file for a `.cfg`, filled at random."""
    path.write_bytes(header + b"".join(value.tobytes() for _, _, value in random_arrays(cfg, gain=gain)))
    return path
