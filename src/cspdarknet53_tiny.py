"""CSPDarknet53-tiny, the backbone of YOLOv4-tiny: five stages, each halving the sides, of which the last three are
handed on.

The layers are those of Darknet's yolov4-tiny.cfg; leaky ReLU in place of Mish, and half a stage's channels, not all
of them, go through its convolutions (Wang et al., arXiv:2011.08036).
"""

from collections.abc import Sequence

from mindspore import nn, ops

from .base.errors import UserError
from .layers.convolution import conv_block

TINY_BACKBONE_SHAPE = (32, 128, 256, 512, 512)


class TinyStage(nn.Cell):
    """A convolution to `channels`, of which the second half goes through two more; all is joined to twice as many.

    Inputs:
        x (N, in_channels, H, W).

    Outputs:
        The joined map (N, 2 * channels, H, W), and its part that went through all the convolutions,
        (N, channels, H, W).
    """

    def __init__(self, in_channels: int, channels: int, activation: str):
        super().__init__()
        self.half = channels // 2
        self.conv0 = conv_block(in_channels, channels, 3, activation=activation)
        self.conv1 = conv_block(self.half, self.half, 3, activation=activation)
        self.conv2 = conv_block(self.half, self.half, 3, activation=activation)
        self.conv3 = conv_block(channels, channels, 1, activation=activation)
        self.join = ops.Concat(axis=1)

    def construct(self, x):
        x = self.conv0(x)
        first = self.conv1(x[:, self.half :])
        through = self.conv3(self.join((self.conv2(first), first)))
        return self.join((x, through)), through


class CspDarknet53Tiny(nn.Cell):
    """Backbone that turns an image into maps of strides 8, 16 and 32.

    Args:
        backbone_input_shape: input channels of the five stages: 3, then the output channels of the stage before.
        backbone_shape: output channels of the five stages; those of the middle three are multiples of 4.
        activation: mish, mish_composed, leaky or silu (`activation_cell`).
        downsample_padding: same or symmetric (`conv_block`).

    Inputs:
        x (N, 3, H, W), H and W multiples of 32.

    Outputs:
        Maps (N, backbone_shape[2] / 2, H/8, W/8), (N, backbone_shape[3] / 2, H/16, W/16) and
        (N, backbone_shape[4], H/32, W/32).

    Raises:
        UserError: numbers of channels that do not make a network.
    """

    def __init__(
        self,
        backbone_input_shape: Sequence[int] = (3, *TINY_BACKBONE_SHAPE[:-1]),
        backbone_shape: Sequence[int] = TINY_BACKBONE_SHAPE,
        activation: str = "leaky",
        downsample_padding: str = "symmetric",
    ):
        super().__init__()
        check_tiny_backbone(backbone_input_shape, backbone_shape)
        c1, c2, c3, c4, c5 = backbone_shape
        self.conv0 = conv_block(3, c1, 3, 2, activation, downsample_padding)
        self.conv1 = conv_block(c1, c2 // 2, 3, 2, activation, downsample_padding)
        self.stage2 = TinyStage(c2 // 2, c2 // 2, activation)
        self.stage3 = TinyStage(c2, c3 // 2, activation)
        self.stage4 = TinyStage(c3, c4 // 2, activation)
        self.conv2 = conv_block(c4, c5, 3, activation=activation)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)

    def construct(self, x):
        stride4, _ = self.stage2(self.conv1(self.conv0(x)))
        stride8, through8 = self.stage3(self.pool(stride4))
        stride16, through16 = self.stage4(self.pool(stride8))
        return through8, through16, self.conv2(self.pool(stride16))


def check_tiny_backbone(backbone_input_shape: Sequence[int], backbone_shape: Sequence[int]) -> None:
    """Refuse numbers of channels that do not make a network (UserError names the option)."""
    if len(backbone_shape) != 5 or any(value < 4 for value in backbone_shape):
        raise UserError(
            f"backbone_shape: {list(backbone_shape)} must be five numbers of 4 or more, one a stage"
        )
    if any(channels % 4 for channels in backbone_shape[1:]):
        raise UserError(
            f"backbone_shape: {list(backbone_shape)} must be multiples of 4 from the second on: stages split twice"
        )
    if list(backbone_input_shape) != [3, *backbone_shape[:-1]]:
        raise UserError(
            f"backbone_input_shape: {list(backbone_input_shape)} must be 3, then those of backbone_shape, "
            f"{list(backbone_shape[:-1])}"
        )
