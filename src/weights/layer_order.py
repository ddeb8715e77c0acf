"""The network's layers in Darknet's order, derived from the network itself.

Darknet numbers layers as its `.cfg` lists them and stores weights in that order; the public PyTorch versions
of YOLOv4 declare theirs in it too. One list serves all of them: its convolutions, in order, are a `.weights`
file or a state dict, and all of it is a `.cfg`.

Two things are not as in our own numbering. A stage's path past the residual blocks comes before the path
through them. And where the neck joins a map from above with one from the backbone, Darknet has the backbone's
first, ours the other: the convolution behind such a joint has the halves of its input channels swapped.
"""

from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import nn

from ..cspdarknet53 import CspDarknet53
from ..cspdarknet53_tiny import CspDarknet53Tiny, TinyStage
from ..layers.activations import ComposedMish, Mish
from ..yolo import TinyFeatureMap, TinyHead, YoloBlock, YoloV4, YoloV4Tiny
from .loading import BACKBONE

# Darknet's words for activations.
ACTIVATIONS = {Mish: "mish", ComposedMish: "mish", nn.LeakyReLU: "leaky", nn.SiLU: "swish"}


@dataclass(frozen=True)
class Convolution:
    """A convolution of the network with what follows it.

    Attributes:
        cell: the convolution.
        norm: its BatchNorm, or None where it has a bias instead (the heads).
        activation: in Darknet's word.
        swapped: Darknet has the halves of its input channels the other way round.
    """

    cell: nn.Conv2d
    norm: nn.BatchNorm2d | None
    activation: str
    swapped: bool = False

    @property
    def parameters(self) -> tuple[ms.Parameter, ...]:
        """Its parameters in the order in which Darknet stores them."""
        if self.norm is None:
            return self.cell.bias, self.cell.weight
        norm = self.norm
        return norm.beta, norm.gamma, norm.moving_mean, norm.moving_variance, self.cell.weight

    @property
    def in_backbone(self) -> bool:
        """Whether it belongs to CSPDarknet53."""
        return self.cell.weight.name.startswith(BACKBONE)

    @property
    def pads_one_side(self) -> bool:
        """Whether it halves the sides with zeros below and on the right alone, which Darknet cannot do."""
        return max(self.cell.stride) > 1 and self.cell.pad_mode == "same"

    def swap(self, weight: np.ndarray) -> np.ndarray:
        """Our weight (out, in, k, k) as Darknet has it, or the other way round."""
        return np.roll(weight, weight.shape[1] // 2, axis=1) if self.swapped else weight


@dataclass(frozen=True)
class Layer:
    """A section of a `.cfg`: its kind, its settings and, of a `convolutional` one, the convolution."""

    kind: str
    settings: dict[str, object] = field(default_factory=dict)
    convolution: Convolution | None = None


def darknet_layers(network: YoloV4 | YoloV4Tiny) -> list[Layer]:
    """All layers of the network in Darknet's order; YOLOv4 has 162, of them 110 convolutions, YOLOv4-tiny 38 and 21."""
    order = _Order()
    neck = network.feature_map
    if isinstance(network, YoloV4Tiny):
        return _tiny_layers(order, neck)
    stride8, stride16 = _backbone(order, neck.backbone)
    order.convolutions(neck.conv1, neck.conv2)
    _pyramid_pooling(order, order.convolution(neck.conv3))
    order.convolutions(neck.conv4, neck.conv5)
    top = order.convolution(neck.conv6)
    _meet(order, neck.conv7, stride16, neck.conv8)
    middle = _five(order, neck.backblock0, swapped=True)
    _meet(order, neck.conv9, stride8, neck.conv10)
    bottom = _five(order, neck.backblock1, swapped=True)
    _head(order, neck.backblock1, 8)
    order.route(bottom)
    order.route(order.convolution(neck.conv11), middle)
    middle = _five(order, neck.backblock2)
    _head(order, neck.backblock2, 16)
    order.route(middle)
    order.route(order.convolution(neck.conv12), top)
    _five(order, neck.backblock3)
    _head(order, neck.backblock3, 32)
    return order.layers


def convolutions(layers: list[Layer]) -> list[Convolution]:
    """The convolutions among the layers."""
    return [layer.convolution for layer in layers if layer.convolution is not None]


class _Order:
    """The list as it grows; each method returns the new layer's number."""

    def __init__(self):
        self.layers: list[Layer] = []

    def add(self, kind: str, convolution: Convolution | None = None, **settings) -> int:
        self.layers.append(Layer(kind, settings, convolution))
        return len(self.layers) - 1

    def convolution(self, block, swapped: bool = False) -> int:
        """A `conv_block`, or a convolution alone."""
        cell, norm, activation = block if isinstance(block, nn.SequentialCell) else (block, None, None)
        word = ACTIVATIONS[type(activation)] if activation is not None else "linear"
        return self.add("convolutional", Convolution(cell, norm, word, swapped))

    def convolutions(self, *blocks) -> None:
        for block in blocks:
            self.convolution(block)

    def route(self, *numbers: int) -> int:
        """The maps of these layers, side by side; a `.cfg` counts them from itself backwards."""
        back = ",".join(str(number - len(self.layers)) for number in numbers)
        return self.add("route", layers=back)


def _backbone(order: _Order, cells: CspDarknet53) -> tuple[int, int]:
    """The five stages; numbers of the layers that give strides 8 and 16 (the last gives 32)."""
    order.convolution(cells.conv0)
    first = [(cells.conv3, cells.conv4), *(_pairs(cells.layer1) if cells.more_first else ())]
    _stage(order, cells.conv1, cells.conv6, cells.conv2, first, cells.conv5, cells.conv7)
    c = cells
    _stage(order, c.conv8, c.conv11, c.conv9, _pairs(c.layer2), c.conv10, c.conv12)
    stride8 = _stage(order, c.conv13, c.conv16, c.conv14, _pairs(c.layer3), c.conv15, c.conv17)
    stride16 = _stage(order, c.conv18, c.conv21, c.conv19, _pairs(c.layer4), c.conv20, c.conv22)
    _stage(order, c.conv23, c.conv26, c.conv24, _pairs(c.layer5), c.conv25, c.conv27)
    return stride8, stride16


def _pairs(blocks: nn.SequentialCell) -> list[tuple]:
    return [(block.conv1, block.conv2) for block in blocks]


def _stage(order: _Order, down, past, into, pairs, out, join) -> int:
    start = order.convolution(down)
    passed = order.convolution(past)
    order.route(start)
    before = order.convolution(into)
    for first, second in pairs:
        order.convolutions(first, second)
        distance = before - len(order.layers)
        before = order.add("shortcut", None, **{"from": distance}, activation="linear")
    order.route(order.convolution(out), passed)
    return order.convolution(join)


def _pyramid_pooling(order: _Order, x: int) -> None:
    pools = []
    for size in (5, 9, 13):
        if pools:
            order.route(x)
        pools.append(order.add("maxpool", stride=1, size=size))
    order.route(*reversed(pools), x)


def _meet(order: _Order, narrow, backbone_map: int, lateral) -> None:
    """What comes from above, narrowed and doubled, meets a map of the backbone."""
    order.convolution(narrow)
    above = order.add("upsample", stride=2)
    order.route(backbone_map)
    order.route(order.convolution(lateral), above)


def _five(order: _Order, block: YoloBlock, swapped: bool = False) -> int:
    order.convolution(block.conv0, swapped)
    order.convolutions(block.conv1, block.conv2, block.conv3)
    return order.convolution(block.conv4)


def _head(order: _Order, block: YoloBlock | TinyHead, stride: int) -> None:
    order.convolutions(block.conv5, block.conv6)
    order.add("yolo", stride=stride)


def _tiny_layers(order: _Order, neck: TinyFeatureMap) -> list[Layer]:
    backbone: CspDarknet53Tiny = neck.backbone
    order.convolutions(backbone.conv0, backbone.conv1)
    _tiny_stage(order, backbone.stage2)
    order.add("maxpool", size=2, stride=2)
    through8 = _tiny_stage(order, backbone.stage3)
    order.add("maxpool", size=2, stride=2)
    through16 = _tiny_stage(order, backbone.stage4)
    order.add("maxpool", size=2, stride=2)
    order.convolution(backbone.conv2)
    top = order.convolution(neck.conv1)
    _head(order, neck.backblock3, 32)
    finer = [(neck.conv2, through16, neck.backblock2, 16)]
    if neck.levels == 3:
        finer.append((neck.conv3, through8, neck.backblock1, 8))
    for narrow, backbone_map, block, stride in finer:
        order.route(top)
        order.convolution(narrow)
        order.route(order.add("upsample", stride=2), backbone_map)
        top = len(order.layers)
        _head(order, block, stride)
    return order.layers


def _tiny_stage(order: _Order, stage: TinyStage) -> int:
    """A stage; the number of the layer that went through all its convolutions."""
    whole = order.convolution(stage.conv0)
    order.add("route", layers="-1", groups=2, group_id=1)
    first = order.convolution(stage.conv1)
    order.route(order.convolution(stage.conv2), first)
    through = order.convolution(stage.conv3)
    order.route(whole, through)
    return through
