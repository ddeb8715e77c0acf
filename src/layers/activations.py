"""Activations of the network."""

from mindspore import nn, ops

from ..base.errors import UserError

# MindSpore's kernel squares an exponential: on the CPU it is NaN from 45 on, where Mish is x to the last digit.
MISH_IS_IDENTITY = 40.0


class Mish(nn.Cell):
    """x * tanh(softplus(x)) (https://arxiv.org/abs/1908.08681) by MindSpore's one kernel.

    Large inputs go past the kernel, for which they would be NaN: outside of training, where the moving statistics
    of a network of few steps are not yet those of its data, and in training where `guarded` is set, because
    BatchNorm is frozen. Otherwise BatchNorm keeps inputs small in training, and a NaN would stop the run.
    """

    def __init__(self):
        super().__init__()
        self.mish = nn.Mish()
        self.guarded = False

    def construct(self, x):
        if not self.training:
            return ops.where(x < MISH_IS_IDENTITY, self.mish(x), x)
        if self.guarded:  # slower, but with a gradient, to which `where` would pass on the NaN
            low = ops.minimum(x, MISH_IS_IDENTITY)
            return self.mish(low) + (x - low)
        return self.mish(x)


class ComposedMish(nn.Cell):
    """x * tanh(softplus(x)) from three kernels, as the published code has it.

    For formats that know no Mish (MindSpore's ONNX export), and to compare with numbers of the published code
    on the CPU: MindSpore's tanh is 1 there above 5, which makes this wrong by up to 5e-4, where `Mish` is right
    to 1e-6 and faster.
    """

    def __init__(self):
        super().__init__()
        self.softplus = ops.Softplus()

    def construct(self, x):
        return x * ops.tanh(self.softplus(x))


def activation_cell(name: str) -> nn.Cell:
    """The activation called `name`: mish, mish_composed, leaky (slope 0.1) or silu.

    Raises:
        UserError: another name.
    """
    if name == "mish_composed":
        return ComposedMish()
    if name == "mish":
        return Mish()
    if name == "leaky":
        return nn.LeakyReLU(0.1)
    if name == "silu":
        return nn.SiLU()
    raise UserError(f"activation: {name!r} is not one of mish, mish_composed, leaky, silu")
