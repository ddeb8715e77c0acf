"""CSPDarknet53, the backbone: five stages, each halving the sides, of which the last three are handed on.

Every stage splits its input in two 1x1 convolutions, sends one part through residual blocks and joins the
two again (cross stage partial connections, https://arxiv.org/abs/1911.11929). Parameter names (`conv0` to
`conv27`, `layer2` to `layer5`) are those of the published checkpoints.
"""

from collections.abc import Sequence

from mindspore import nn, ops

from .base.errors import UserError
from .layers.convolution import conv_block

BACKBONE_SHAPE = (64, 128, 256, 512, 1024)
BACKBONE_LAYERS = (1, 2, 8, 8, 4)


class ResidualBlock(nn.Cell):
    """1x1 convolution to `hidden` channels, 3x3 back to `channels`, added to the input."""

    def __init__(self, channels: int, hidden: int, activation: str = "mish"):
        super().__init__()
        self.conv1 = conv_block(channels, hidden, 1, activation=activation)
        self.conv2 = conv_block(hidden, channels, 3, activation=activation)

    def construct(self, x):
        return self.conv2(self.conv1(x)) + x


class CspDarknet53(nn.Cell):
    """Backbone that turns an image into maps of strides 8, 16 and 32.

    Args:
        backbone_input_shape: input channels of the five stages: those of the stem, then the output
            channels of the stage before.
        backbone_shape: output channels of the five stages, even numbers.
        backbone_layers: residual blocks of the five stages, at least one each.
        activation: mish, mish_composed, leaky or silu (`activation_cell`).
        downsample_padding: same or symmetric (`conv_block`).

    Inputs:
        x (N, 3, H, W), H and W multiples of 32.

    Outputs:
        Maps (N, backbone_shape[2], H/8, W/8), (N, backbone_shape[3], H/16, W/16) and
        (N, backbone_shape[4], H/32, W/32).

    Raises:
        UserError: numbers of channels or blocks that do not make a network.
    """

    def __init__(
        self,
        backbone_input_shape: Sequence[int] = (32, *BACKBONE_SHAPE[:-1]),
        backbone_shape: Sequence[int] = BACKBONE_SHAPE,
        backbone_layers: Sequence[int] = BACKBONE_LAYERS,
        activation: str = "mish",
        downsample_padding: str = "same",
    ):
        super().__init__()
        check_backbone(backbone_input_shape, backbone_shape, backbone_layers)
        stem = backbone_input_shape[0]
        c1, c2, c3, c4, c5 = backbone_shape

        def conv(in_channels, out_channels, kernel_size, stride=1):
            return conv_block(in_channels, out_channels, kernel_size, stride, activation, downsample_padding)

        def residuals(channels, hidden, count):
            return nn.SequentialCell([ResidualBlock(channels, hidden, activation) for _ in range(count)])

        self.conv0 = conv(3, stem, 3)
        # Stage 1 does not halve its channels when it splits.
        self.conv1 = conv(stem, c1, 3, 2)
        self.conv2 = conv(c1, c1, 1)
        self.conv3 = conv(c1, stem, 1)
        self.conv4 = conv(stem, c1, 3)
        self.conv5 = conv(c1, c1, 1)
        self.conv6 = conv(c1, c1, 1)
        self.conv7 = conv(2 * c1, c1, 1)
        # Stages 2 to 5: down, into the residual blocks, out of them, past them, join.
        self.conv8 = conv(c1, c2, 3, 2)
        self.conv9 = conv(c2, c2 // 2, 1)
        self.conv10 = conv(c2 // 2, c2 // 2, 1)
        self.conv11 = conv(c2, c2 // 2, 1)
        self.conv12 = conv(c2, c2, 1)
        self.conv13 = conv(c2, c3, 3, 2)
        self.conv14 = conv(c3, c3 // 2, 1)
        self.conv15 = conv(c3 // 2, c3 // 2, 1)
        self.conv16 = conv(c3, c3 // 2, 1)
        self.conv17 = conv(c3, c3, 1)
        self.conv18 = conv(c3, c4, 3, 2)
        self.conv19 = conv(c4, c4 // 2, 1)
        self.conv20 = conv(c4 // 2, c4 // 2, 1)
        self.conv21 = conv(c4, c4 // 2, 1)
        self.conv22 = conv(c4, c4, 1)
        self.conv23 = conv(c4, c5, 3, 2)
        self.conv24 = conv(c5, c5 // 2, 1)
        self.conv25 = conv(c5 // 2, c5 // 2, 1)
        self.conv26 = conv(c5, c5 // 2, 1)
        self.conv27 = conv(c5, c5, 1)
        # The published stage 1 has one block, conv3 and conv4; only more than that need a name of their own.
        self.more_first = backbone_layers[0] > 1
        if self.more_first:
            self.layer1 = residuals(c1, stem, backbone_layers[0] - 1)
        self.layer2 = residuals(c2 // 2, c2 // 2, backbone_layers[1])
        self.layer3 = residuals(c3 // 2, c3 // 2, backbone_layers[2])
        self.layer4 = residuals(c4 // 2, c4 // 2, backbone_layers[3])
        self.layer5 = residuals(c5 // 2, c5 // 2, backbone_layers[4])
        self.join = ops.Concat(axis=1)

    def construct(self, x):
        x = self.conv1(self.conv0(x))
        inner = self.conv2(x)
        inner = self.conv4(self.conv3(inner)) + inner
        if self.more_first:
            inner = self.layer1(inner)
        x = self.conv7(self.join((self.conv5(inner), self.conv6(x))))

        x = self.conv8(x)
        inner = self.conv10(self.layer2(self.conv9(x)))
        x = self.conv12(self.join((inner, self.conv11(x))))

        x = self.conv13(x)
        inner = self.conv15(self.layer3(self.conv14(x)))
        stride8 = self.conv17(self.join((inner, self.conv16(x))))

        x = self.conv18(stride8)
        inner = self.conv20(self.layer4(self.conv19(x)))
        stride16 = self.conv22(self.join((inner, self.conv21(x))))

        x = self.conv23(stride16)
        inner = self.conv25(self.layer5(self.conv24(x)))
        stride32 = self.conv27(self.join((inner, self.conv26(x))))
        return stride8, stride16, stride32


def check_backbone(
    backbone_input_shape: Sequence[int], backbone_shape: Sequence[int], backbone_layers: Sequence[int]
) -> None:
    """Refuse numbers of channels or blocks that do not make a network (UserError names the option)."""
    for key, values in (
        ("backbone_shape", backbone_shape),
        ("backbone_input_shape", backbone_input_shape),
        ("backbone_layers", backbone_layers),
    ):
        if len(values) != 5 or any(value < 1 for value in values):
            raise UserError(f"{key}: {list(values)} must be five positive numbers, one a stage")
    if any(channels % 2 for channels in backbone_shape):
        raise UserError(f"backbone_shape: {list(backbone_shape)} must be even: stages split in halves")
    if list(backbone_input_shape[1:]) != list(backbone_shape[:-1]):
        raise UserError(
            f"backbone_input_shape: {list(backbone_input_shape)} must be the stem's channels, then those of "
            f"backbone_shape, {list(backbone_shape[:-1])}"
        )
