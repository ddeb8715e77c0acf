"""Darknet's `.weights` and `.cfg`, read and written.

A `.weights` file is a header and float32 values, little-endian, without names: for each convolution in the
`.cfg`'s order bias, scale, mean and variance of its BatchNorm (a bias alone where it has none) and then its
weight (out, in, k, k). The header is three int32 (major, minor, revision) and the number of images seen, in
64 bits from version 0.2 on and in 32 before. Darknet's BatchNorm adds 0.00001 to the variance, as ours does;
OpenCV's importer adds 0.000001, which matters only to channels that hardly vary.

Two things of our network have no word in Darknet's language and are written as convolutions that do the same:
- zeros on one side of a stride-2 convolution (`downsample_padding: same`): a kernel two wider with a border of
  zeros on the left and above, which Darknet pads by one more on all sides;
- the normalisation by `image_mean` and `image_std`: a first 1x1 convolution with a bias, on x / 255.
"""

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.atomic import atomic_write
from ..base.errors import UserError
from ..base.heads import ANCHORS_A_CELL, Heads
from .conversion import Conversion
from .layer_order import Convolution, Layer, convolutions

VERSION = (0, 2, 5)
IMAGENET_CLASSES = 1000
# How a parameter is called in the report, by its place among those of a convolution.
_WITH_NORM = ("bias", "scale", "mean", "variance", "weight")
_WITH_BIAS = ("bias", "weight")


@dataclass(frozen=True)
class Layout:
    """How a file says what Darknet has no word for.

    Attributes:
        wide: convolutions that pad on one side are stored with a wider kernel.
        normalisation: (mean, std) of a first convolution that normalises, or None.
    """

    wide: bool = False
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def first_values(self) -> int:
        """Number of values in front of the network's own."""
        return 0 if self.normalisation is None else 3 + 9

    def margin(self, convolution: Convolution) -> int:
        """Rows and columns of zeros above and on the left of a stored kernel."""
        return 2 if self.wide and convolution.pads_one_side else 0

    def shapes(self, convolution: Convolution) -> list[tuple[int, ...]]:
        """Shapes of a convolution's parameters as stored, in their order."""
        *rest, weight = (parameter.shape for parameter in convolution.parameters)
        margin = self.margin(convolution)
        return [*rest, (*weight[:2], weight[2] + margin, weight[3] + margin)]

    def ends(self, found: Sequence[Convolution]) -> list[int]:
        """Number of values up to the end of each convolution."""
        sizes = (sum(int(np.prod(shape)) for shape in self.shapes(convolution)) for convolution in found)
        return [self.first_values + end for end in itertools.accumulate(sizes)]


def own_layout(layers: list[Layer], mean: Sequence[float], std: Sequence[float]) -> Layout:
    """The layout that a network of ours needs; for one without one-sided padding and normalisation, Darknet's."""
    plain = all(value == 0 for value in mean) and all(value == 1 for value in std)
    wide = any(convolution.pads_one_side for convolution in convolutions(layers))
    return Layout(wide, None if plain else (tuple(mean), tuple(std)))


def looks_like_weights(start: bytes) -> bool:
    """Whether a file that starts so may be Darknet's: version 0.1 to 0.9."""
    return len(start) >= 12 and start[:4] == bytes(4) and 1 <= struct.unpack("<i", start[4:8])[0] <= 9


def read_weights(path: Path, layers: list[Layer], mean: Sequence[float], std: Sequence[float]) -> Conversion:
    """Read a `.weights` file by its length, which alone tells what it holds.

    That is the whole network, or its first layers as Darknet's `partial` cuts them (`yolov4.conv.137`), at least
    the backbone; or a CSPDarknet53 classifier of ImageNet's 1000 classes, of which the backbone is taken.

    Args:
        path: the file.
        layers: of the network, from `darknet_layers`.
        mean, std: the normalisation of the network's input, for files that `write_weights` wrote.

    Raises:
        UserError: no Darknet file, or one of another network: truncated, too long or of other classes.
    """
    with path.open("rb") as handle:
        head = handle.read(12)
    if not looks_like_weights(head):
        raise UserError(
            f"{path}: not a Darknet weights file (no version 0.1 to 0.9 at its start); copy it again"
        )
    _, minor, _ = struct.unpack("<iii", head)
    start = 12 + (8 if minor >= 2 else 4)
    count, rest = divmod(max(path.stat().st_size - start, 0), 4)
    found = convolutions(layers)
    layout, number, classifier = _recognise(path, start, count, rest, found, own_layout(layers, mean, std))
    body = np.fromfile(path, "<f4", count, offset=start)  # a size that fits the network
    result = Conversion(path)
    if layout.normalisation is not None:
        _check_normalisation(path, body[:12], layout)
    place = layout.first_values
    for index, convolution in enumerate(found[:number]):
        words = _WITH_BIAS if convolution.norm is None else _WITH_NORM
        for parameter, shape, word in zip(convolution.parameters, layout.shapes(convolution), words):
            end = place + int(np.prod(shape))
            value = body[place:end].reshape(shape)
            source = f"convolution {index} {word}, byte {start + 4 * place}"
            if word == "weight":
                margin = layout.margin(convolution)
                value = convolution.swap(value[:, :, margin:, margin:])
            result.add(parameter.name, value, source)
            place = end
    if number < len(found):
        result.notes.append(_what_is_in(found, number))
    if classifier:
        result.notes.append(f"its {IMAGENET_CLASSES} classes left out")
    if layout == Layout() != own_layout(layers, mean, std):
        result.notes.append(
            "Darknet networks want downsample_padding symmetric, image_mean 0,0,0 and image_std 1,1,1 to compute "
            "what they did there; these options differ"
        )
    return result


def write_weights(path: Path, layers: list[Layer], values: dict[str, np.ndarray], layout: Layout) -> None:
    """Write a `.weights` file for the convolutions in `layers`.

    Args:
        path: the file.
        layers: of the network, or its first ones.
        values: parameters by our names.
        layout: from `own_layout`.
    """
    with atomic_write(path, binary=True) as handle:
        handle.write(struct.pack("<iiiQ", *VERSION, 0))
        if layout.normalisation is not None:
            handle.write(_normalisation_values(layout).tobytes())
        for convolution in convolutions(layers):
            *rest, weight = (values[parameter.name] for parameter in convolution.parameters)
            margin = layout.margin(convolution)
            weight = np.pad(convolution.swap(weight), ((0, 0), (0, 0), (margin, 0), (margin, 0)))
            for value in (*rest, weight):
                handle.write(np.ascontiguousarray(value, "<f4").tobytes())


def cfg_text(
    layers: list[Layer],
    layout: Layout,
    *,
    input_hw: tuple[int, int],
    heads: Heads,
    classes: int,
    ignore_threshold: float = 0.7,
) -> str:
    """The `.cfg` that belongs to what `write_weights` writes.

    Args:
        layers: of the network, or its first ones.
        layout: from `own_layout`.
        input_hw: (height, width) of the network's input.
        heads: strides, anchors and grid sensitivity.
        classes: number of classes.
        ignore_threshold: for those who train on in Darknet.
    """
    height, width = input_hw
    sections: list[tuple[str, dict[str, Any]]] = [
        ("net", {"batch": 1, "subdivisions": 1, "width": width, "height": height, "channels": 3})
    ]
    if layout.normalisation is not None:
        settings = {"filters": 3, "size": 1, "stride": 1, "pad": 0, "activation": "linear"}
        sections.append(("convolutional", settings))
    anchors = heads.anchor_scales
    for layer in layers:
        settings = dict(layer.settings)
        if layer.convolution is not None:
            settings = _convolution_settings(layer.convolution, layout)
        elif layer.kind == "yolo":
            level = heads.strides.index(settings.pop("stride"))
            first = ANCHORS_A_CELL * (len(heads.strides) - 1 - level)  # anchors begin with the finest stride
            settings |= {
                "mask": ",".join(str(first + number) for number in range(ANCHORS_A_CELL)),
                "anchors": ", ".join(f"{w:g},{h:g}" for w, h in anchors),
                "classes": classes,
                "num": len(anchors),
                "ignore_thresh": ignore_threshold,
                "truth_thresh": 1,
                "iou_thresh": 0.213,
                "scale_x_y": heads.scale_x_y[level],
            }
        sections.append((layer.kind, settings))
    blocks = [
        "\n".join([f"[{kind}]", *(f"{k}={v}" for k, v in settings.items())]) for kind, settings in sections
    ]
    return "\n\n".join(blocks) + "\n"


def first_layers(layers: list[Layer], names) -> list[Layer]:
    """The layers up to the last convolution whose parameters are all among `names`."""
    end = 0
    for number, layer in enumerate(layers):
        if layer.convolution is None:
            continue
        if any(parameter.name not in names for parameter in layer.convolution.parameters):
            return layers[:end]
        end = number + 1
    return layers


def _convolution_settings(convolution: Convolution, layout: Layout) -> dict[str, object]:
    size = convolution.cell.kernel_size[0] + layout.margin(convolution)
    settings = {} if convolution.norm is None else {"batch_normalize": 1}
    return settings | {
        "filters": convolution.cell.out_channels,
        "size": size,
        "stride": max(convolution.cell.stride),
        "pad": 1,
        "activation": convolution.activation,
    }


def _recognise(path, start, count, rest, found, own) -> tuple[Layout, int, bool]:
    """Layout, number of convolutions and whether it is a classifier, by the number of values."""
    backbone = sum(convolution.in_backbone for convolution in found)
    layouts = [Layout()] if own == Layout() else [Layout(), own]
    if rest == 0:
        for layout in layouts:
            ends = layout.ends(found)
            if count in ends[backbone - 1 :]:
                return layout, ends.index(count) + 1, False
        end = Layout().ends(found[:backbone])[-1]
        if count == end + IMAGENET_CLASSES * (found[backbone - 1].cell.out_channels + 1):
            return Layout(), backbone, True
    heads = [convolution.cell for convolution in found if convolution.norm is None]
    a_class = sum(3 * (head.in_channels + 1) for head in heads)
    classes = heads[0].out_channels // 3 - 5
    wanted = [start + 4 * layout.ends(found)[-1] for layout in layouts]
    for layout in layouts:
        more, odd = divmod(count - layout.ends(found)[-1], a_class)
        if rest == 0 and odd == 0 and classes + more >= 1:
            raise UserError(
                f"{path}: holds a network of {classes + more} classes, labels has {classes}; give the labels it "
                "was trained with (--labels or --config), and transfer_train to train on for others"
            )
    size = start + 4 * count + rest
    verb = "too few (truncated?)" if size < wanted[0] else "too many"
    raise UserError(
        f"{path}: {size} bytes are {verb}: expected {' or '.join(map(str, wanted))} for {classes} classes, "
        f"{start + 4 * Layout().ends(found[:backbone])[-1]} for the backbone alone; copy the file again, or set "
        "labels, backbone_shape, backbone_layers and lateral_kernel as it was trained"
    )


def _what_is_in(found: list[Convolution], number: int) -> str:
    name = found[number - 1].cell.weight.name.removesuffix(".weight").removesuffix(".0")
    return f"a partial file: the first {number} of {len(found)} convolutions, up to {name}"


def _normalisation_values(layout: Layout) -> np.ndarray:
    """Bias and weight of the convolution that turns x / 255 into (x / 255 - mean) / std."""
    assert layout.normalisation is not None
    mean, std = (np.array(values, np.float64) for values in layout.normalisation)
    return np.concatenate([-mean / std, np.diag(1 / std).reshape(-1)]).astype("<f4")


def _check_normalisation(path: Path, values: np.ndarray, layout: Layout) -> None:
    if not np.allclose(values, _normalisation_values(layout), rtol=1e-4, atol=1e-6):
        bias, scale = values[:3], np.diag(values[3:].reshape(3, 3))
        std = 1 / np.where(scale == 0, np.nan, scale)
        found = ", ".join(f"{value:.4g}" for value in (*(-bias * std), *std))
        raise UserError(
            f"{path}: normalises its input by mean and deviation {found}; set image_mean and image_std to those"
        )
