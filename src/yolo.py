"""YOLOv4 and YOLOv4-tiny: backbone, neck (of YOLOv4 SPP and PANet) and heads, and the decoding of raw maps into boxes.

Widths of the neck follow the backbone's. Parameter names are those of the published checkpoints
(`feature_map.backbone...`, `feature_map.conv1`, `feature_map.backblock0.conv0`, ...), except for the
published `feature_map.backblock0.conv5` and `conv6`, a head that no output uses and that is not built here.
"""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr

from .base.errors import UserError
from .base.heads import ANCHORS_A_CELL, STRIDES_OF, YOLOV4, Heads
from .config import Config
from .cspdarknet53 import BACKBONE_LAYERS, BACKBONE_SHAPE, CspDarknet53
from .cspdarknet53_tiny import TINY_BACKBONE_SHAPE, CspDarknet53Tiny
from .layers.batch_norm import configure_batch_norm
from .layers.convolution import conv_block, upsample
from .layers.decoding import cell_constants, centre_share
from .layers.drop_block import DropBlock
from .layers.normalisation import normalised, pixel_constants

# ImageNet's statistics of RGB in 0..1.
IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class YoloBlock(nn.Cell):
    """Five convolutions, 1x1 and 3x3 in turn, to `channels` channels, and on top, by option, a head.

    Inputs:
        x (N, in_channels, H, W).

    Outputs:
        The map (N, channels, H, W), which `predict` turns into the raw map (N, head_channels, H, W).
    """

    def __init__(self, in_channels: int, channels: int, head_channels: int, activation: str):
        super().__init__()
        self.conv0 = conv_block(in_channels, channels, 1, activation=activation)
        self.conv1 = conv_block(channels, 2 * channels, 3, activation=activation)
        self.conv2 = conv_block(2 * channels, channels, 1, activation=activation)
        self.conv3 = conv_block(channels, 2 * channels, 3, activation=activation)
        self.conv4 = conv_block(2 * channels, channels, 1, activation=activation)
        if head_channels:
            self.conv5 = conv_block(channels, 2 * channels, 3, activation=activation)
            self.conv6 = nn.Conv2d(2 * channels, head_channels, 1, has_bias=True)

    def construct(self, x):
        return self.conv4(self.conv3(self.conv2(self.conv1(self.conv0(x)))))

    def predict(self, x):
        """The head's raw map of a map that `construct` gave."""
        return self.conv6(self.conv5(x))


class SpatialPyramidPooling(nn.Cell):
    """Maxima over 13x13, 9x9 and 5x5 windows and the input itself, side by side: 4 times the channels."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size=5, stride=1, pad_mode="same")
        self.join = ops.Concat(axis=1)

    def construct(self, x):
        # A maximum over 5x5 of maxima over 5x5 is one over 9x9, and once more gives 13x13.
        five = self.pool(x)
        nine = self.pool(five)
        return self.join((self.pool(nine), nine, five, x))


class FeatureMap(nn.Cell):
    """Backbone, SPP and PANet with its three heads; arguments and results as of `YoloV4`."""

    def __init__(
        self,
        backbone: nn.Cell,
        backbone_shape: Sequence[int],
        head_channels: int,
        activation: str,
        lateral_kernel: int,
        downsample_padding: str,
        drop_block: float,
        drop_block_size: int,
    ):
        super().__init__()
        self.drops = drop_block > 0
        self.drop_block = DropBlock(drop_block, drop_block_size)
        c3, c4, c5 = (channels // 2 for channels in backbone_shape[2:])

        def conv(in_channels, out_channels, kernel_size, stride=1):
            return conv_block(in_channels, out_channels, kernel_size, stride, activation, downsample_padding)

        self.backbone = backbone
        self.conv1 = conv(2 * c5, c5, 1)
        self.conv2 = conv(c5, 2 * c5, 3)
        self.conv3 = conv(2 * c5, c5, 1)
        self.pyramid_pooling = SpatialPyramidPooling()
        self.conv4 = conv(4 * c5, c5, 1)
        self.conv5 = conv(c5, 2 * c5, 3)
        self.conv6 = conv(2 * c5, c5, 1)
        self.conv7 = conv(c5, c4, 1)
        self.conv8 = conv(2 * c4, c4, 1)
        self.backblock0 = YoloBlock(2 * c4, c4, 0, activation)
        self.conv9 = conv(c4, c3, lateral_kernel)
        self.conv10 = conv(2 * c3, c3, 1)
        self.conv11 = conv(c3, c4, 3, 2)
        self.conv12 = conv(c4, c5, 3, 2)
        self.backblock1 = YoloBlock(2 * c3, c3, head_channels, activation)
        self.backblock2 = YoloBlock(2 * c4, c4, head_channels, activation)
        self.backblock3 = YoloBlock(2 * c5, c5, head_channels, activation)
        self.join = ops.Concat(axis=1)

    def construct(self, x):
        stride8, stride16, stride32 = self.backbone(x)
        if self.drops:
            stride8, stride16 = self.drop_block(stride8), self.drop_block(stride16)
            stride32 = self.drop_block(stride32)
        top = self.conv3(self.conv2(self.conv1(stride32)))
        top = self.conv6(self.conv5(self.conv4(self.pyramid_pooling(top))))
        middle = self.backblock0(self.join((upsample(self.conv7(top)), self.conv8(stride16))))
        bottom = self.backblock1(self.join((upsample(self.conv9(middle)), self.conv10(stride8))))
        middle = self.backblock2(self.join((self.conv11(bottom), middle)))
        top = self.backblock3(self.join((self.conv12(middle), top)))
        return self.backblock3.predict(top), self.backblock2.predict(middle), self.backblock1.predict(bottom)


class YoloV4(nn.Cell):
    """The network, from images to raw maps.

    Args:
        num_classes: number of classes C.
        backbone_shape: output channels of the backbone's five stages; the neck's are half of the last three.
        backbone_layers: residual blocks of the backbone's five stages.
        backbone_input_shape: input channels of the five stages; by default half of the first stage's output
            for the stem, then the output of the stage before.
        backbone_activation, neck_activation: mish, mish_composed, leaky or silu (`activation_cell`).
        lateral_kernel: kernel of the convolution in front of the second upsampling.
        downsample_padding: same or symmetric zeros around the input of stride-2 convolutions (`conv_block`).
        drop_block, drop_block_size: of the backbone's three maps in training (`DropBlock`).

    Inputs:
        x float32 (N, 3, H, W), normalised RGB, H and W multiples of 32.

    Outputs:
        Raw maps of strides 32, 16 and 8, each (N, 3 * (5 + C), H / stride, W / stride): for each of three
        anchors x, y, w, h, objectness and C classes, all before their activations.

    Raises:
        UserError: an option that makes no network.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        backbone_shape: Sequence[int] = BACKBONE_SHAPE,
        backbone_layers: Sequence[int] = BACKBONE_LAYERS,
        backbone_input_shape: Sequence[int] | None = None,
        backbone_activation: str = "mish",
        neck_activation: str = "leaky",
        lateral_kernel: int = 1,
        downsample_padding: str = "same",
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ):
        super().__init__()
        if num_classes < 1:
            raise UserError("labels: at least one class is needed")
        if backbone_input_shape is None:
            backbone_input_shape = (max(1, backbone_shape[0] // 2), *backbone_shape[:-1])
        self.num_classes = num_classes
        self.downsample_padding = downsample_padding
        backbone = CspDarknet53(
            backbone_input_shape, backbone_shape, backbone_layers, backbone_activation, downsample_padding
        )
        head_channels = ANCHORS_A_CELL * (5 + num_classes)
        self.feature_map = FeatureMap(
            backbone,
            backbone_shape,
            head_channels,
            neck_activation,
            lateral_kernel,
            downsample_padding,
            drop_block,
            drop_block_size,
        )

    def construct(self, x):
        return self.feature_map(x)


class TinyHead(nn.Cell):
    """A 3x3 convolution to `channels` and the 1x1 convolution to a raw map.

    The names are those of the head on top of a `YoloBlock`, so that what knows the class layers by name knows these.
    """

    def __init__(self, in_channels: int, channels: int, head_channels: int, activation: str):
        super().__init__()
        self.conv5 = conv_block(in_channels, channels, 3, activation=activation)
        self.conv6 = nn.Conv2d(channels, head_channels, 1, has_bias=True)

    def construct(self, x):
        x = self.conv5(x)
        return x, self.conv6(x)


class TinyFeatureMap(nn.Cell):
    """Backbone, the upsampled way down and two or three heads; arguments and results as of `YoloV4Tiny`."""

    def __init__(
        self,
        backbone: nn.Cell,
        backbone_shape: Sequence[int],
        levels: int,
        head_channels: int,
        activation: str,
        drop_block: float,
        drop_block_size: int,
    ):
        super().__init__()
        self.drops, self.levels = drop_block > 0, levels
        self.drop_block = DropBlock(drop_block, drop_block_size)
        c3, c4, c5 = backbone_shape[2:]
        self.backbone = backbone
        self.conv1 = conv_block(c5, c5 // 2, 1, activation=activation)
        self.backblock3 = TinyHead(c5 // 2, c5, head_channels, activation)
        self.conv2 = conv_block(c5 // 2, c5 // 4, 1, activation=activation)
        self.backblock2 = TinyHead(c5 // 4 + c4 // 2, c4 // 2, head_channels, activation)
        if levels == 3:
            self.conv3 = conv_block(c4 // 2, c3 // 4, 1, activation=activation)
            self.backblock1 = TinyHead(c3 // 4 + c3 // 2, c3 // 2, head_channels, activation)
        self.join = ops.Concat(axis=1)

    def construct(self, x):
        stride8, stride16, stride32 = self.backbone(x)
        if self.drops:
            stride8, stride16 = self.drop_block(stride8), self.drop_block(stride16)
            stride32 = self.drop_block(stride32)
        top = self.conv1(stride32)
        _, raw32 = self.backblock3(top)
        middle, raw16 = self.backblock2(self.join((upsample(self.conv2(top)), stride16)))
        if self.levels == 2:
            return raw32, raw16
        _, raw8 = self.backblock1(self.join((upsample(self.conv3(middle)), stride8)))
        return raw32, raw16, raw8


class YoloV4Tiny(nn.Cell):
    """YOLOv4-tiny, from images to raw maps.

    Args:
        num_classes: number of classes C.
        levels: heads, 2 (strides 32 and 16) or 3 (and 8), as Darknet's yolov4-tiny.cfg and yolov4-tiny-3l.cfg.
        backbone_input_shape, backbone_shape, downsample_padding: as of `CspDarknet53Tiny`.
        backbone_activation, neck_activation: mish, mish_composed, leaky or silu (`activation_cell`).
        drop_block, drop_block_size: of the backbone's maps in training (`DropBlock`).

    Inputs:
        x float32 (N, 3, H, W), normalised RGB, H and W multiples of 32.

    Outputs:
        Raw maps as of `YoloV4`, of strides 32 and 16, and with three levels of stride 8.

    Raises:
        UserError: an option that makes no network.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        levels: int = 2,
        backbone_shape: Sequence[int] = TINY_BACKBONE_SHAPE,
        backbone_input_shape: Sequence[int] | None = None,
        backbone_activation: str = "leaky",
        neck_activation: str = "leaky",
        downsample_padding: str = "symmetric",
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ):
        super().__init__()
        if num_classes < 1:
            raise UserError("labels: at least one class is needed")
        if backbone_input_shape is None:
            backbone_input_shape = (3, *backbone_shape[:-1])
        self.num_classes = num_classes
        self.downsample_padding = downsample_padding
        self.feature_map = TinyFeatureMap(
            CspDarknet53Tiny(backbone_input_shape, backbone_shape, backbone_activation, downsample_padding),
            backbone_shape,
            levels,
            ANCHORS_A_CELL * (5 + num_classes),
            neck_activation,
            drop_block,
            drop_block_size,
        )

    def construct(self, x):
        return self.feature_map(x)


@constexpr
def _grid_constants(height, width, stride, anchors):
    """`cell_constants` as tensors that broadcast to (N, A, 2, H, W)."""
    corners, cells, shares = cell_constants(height, width, stride, anchors)
    return (
        Tensor(corners[None, None]),
        Tensor(cells.reshape(1, 1, 2, 1, 1)),
        Tensor(shares[None, :, :, None, None]),
    )


class YoloDecoder(nn.Cell):
    """Turns raw maps into boxes, by the formulas of `src.layers.decoding`.

    Args:
        heads: strides, anchors and the factors s.

    Inputs:
        the raw maps of the network, the coarsest stride first.

    Outputs:
        For each map (N, H, W, 3, 5 + C): centre x, y, width, height as shares of the input,
        objectness and class probabilities, each after a sigmoid.
    """

    def __init__(self, heads: Heads = YOLOV4):
        super().__init__()
        self.strides, self.anchors, self.scale_x_y = heads.strides, heads.anchors, heads.scale_x_y

    def construct(self, *maps):
        decoded = ()
        for level in range(len(maps)):
            decoded += (self.decode(maps[level], level),)
        return decoded

    def decode(self, raw, level):
        """One raw map; `level` counts the heads, the coarsest stride first."""
        raw = ops.cast(raw, ms.float32)
        n, channels, height, width = raw.shape
        raw = raw.reshape(n, ANCHORS_A_CELL, channels // ANCHORS_A_CELL, height, width)
        corners, size, anchor = _grid_constants(height, width, self.strides[level], self.anchors[level])
        xy = centre_share(ops.sigmoid(raw[:, :, 0:2]), self.scale_x_y[level], corners, size)
        wh = ops.exp(raw[:, :, 2:4]) * anchor
        decoded = ops.concat((xy, wh, ops.sigmoid(raw[:, :, 4:])), 2)
        return decoded.transpose(0, 3, 4, 1, 2)


class YoloDetector(nn.Cell):
    """Network and decoder in one, with the network's own parameter names: images in, decoded maps out."""

    def __init__(self, yolo: nn.Cell, decoder: nn.Cell):
        super().__init__(auto_prefix=False)
        self.yolo = yolo
        self.decoder = decoder

    def construct(self, x):
        return self.decoder(*self.yolo(x))


class Normalize(nn.Cell):
    """Images uint8 (N, 3, H, W) to float32 (x / 255 - mean) / std, so that they travel as bytes."""

    def __init__(self, mean: Sequence[float] = IMAGE_MEAN, std: Sequence[float] = IMAGE_STD):
        super().__init__(auto_prefix=False)
        self.mean, self.factor = (Tensor(constant[None]) for constant in pixel_constants(mean, std))

    def construct(self, x):
        return normalised(ops.cast(x, ms.float32), self.mean, self.factor)


def build_network(config: Config) -> YoloV4 | YoloV4Tiny:
    """The network that the options describe, with MindSpore's own initial weights."""
    shared = config.pick(
        "backbone_input_shape", "backbone_shape", "backbone_activation", "neck_activation", "downsample_padding",
        "drop_block", "drop_block_size",
    )  # fmt: skip
    if config.network == "yolov4":
        network = YoloV4(config.num_classes, **config.pick("backbone_layers", "lateral_kernel"), **shared)
    else:
        network = YoloV4Tiny(config.num_classes, levels=len(STRIDES_OF[config.network]), **shared)
    configure_batch_norm(network, config.batch_norm_momentum, config.batch_norm_epsilon)
    return network
