"""The convolution that networks are built of, and what doubles a map."""

from mindspore import nn, ops

from ..base.errors import UserError
from .activations import activation_cell
from .batch_norm import BatchNorm


def conv_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    activation: str = "mish",
    downsample_padding: str = "same",
) -> nn.SequentialCell:
    """Convolution without bias, BatchNorm and activation; the sides are divided by `stride`.

    With a stride of 2 and an even side, `same` adds a zero row below and a zero column on the right alone (as
    published); `symmetric` adds one on each side (Darknet and PyTorch). With a stride of 1 they are equal.

    Raises:
        UserError: another name of a padding.
    """
    if downsample_padding not in ("same", "symmetric"):
        raise UserError(f"downsample_padding: {downsample_padding!r} is not one of same, symmetric")
    padding = {"pad_mode": "same"}
    if stride > 1 and downsample_padding == "symmetric":
        padding = {"pad_mode": "pad", "padding": kernel_size // 2}
    return nn.SequentialCell(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, **padding),
        BatchNorm(out_channels),
        activation_cell(activation),
    )


def upsample(x):
    """Double the sides of (N, C, H, W) by repeating pixels."""
    return ops.ResizeNearestNeighbor((2 * x.shape[2], 2 * x.shape[3]))(x)
