"""What is set on a network before it is trained: initial weights, frozen layers, half precision, recomputation."""

import mindspore as ms
from mindspore import nn

from ..base.errors import UserError
from ..config import Config
from ..cspdarknet53 import ResidualBlock
from ..cspdarknet53_tiny import TinyStage
from ..initializer import initialize, set_head_prior
from ..layers.activations import Mish
from ..layers.batch_norm import BatchNorm, synchronise_batch_norm


def prepare_network(network: nn.Cell, config: Config, group_size: int) -> None:
    """Random weights, and how the options say that the network is trained.

    Raises:
        UserError: `freeze` names no layer, or leaves nothing to train.
    """
    initialize(network, config.seed)
    if config.head_prior:
        set_head_prior(network, config.head_prior)
    if config.sync_bn and group_size > 1:
        synchronise_batch_norm(network, group_size)
    freeze(network, config.freeze)
    set_precision(network, config.ms_amp_level)
    if config.recompute:
        recompute_backbone(network)


def freeze(network: nn.Cell, prefixes: list[str]) -> int:
    """Keep weights and BatchNorm statistics of the layers whose names begin so; returns their parameters.

    Args:
        network: the network.
        prefixes: beginnings of parameter names, such as `feature_map.backbone` or `feature_map.backbone.conv0`.

    Raises:
        UserError: a prefix that no parameter has, or nothing left to train.
    """
    prefixes = [prefix for prefix in prefixes if prefix]
    frozen = [p for p in network.get_parameters() if any(_is_below(p.name, prefix) for prefix in prefixes)]
    for prefix in prefixes:
        if not any(_is_below(parameter.name, prefix) for parameter in frozen):
            raise UserError(f"freeze: no parameter begins with {prefix!r}; for example feature_map.backbone")
    for parameter in frozen:
        parameter.requires_grad = False
    if not network.trainable_params():
        raise UserError(f"freeze: {', '.join(prefixes)} leave nothing to train")
    names = {parameter.name for parameter in frozen}
    for _, cell in network.cells_and_names():
        if isinstance(cell, BatchNorm) and cell.gamma.name in names:
            cell.use_batch_statistics = False
        if isinstance(cell, Mish) and names:
            cell.guarded = True
    return len(frozen)


def _is_below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def set_precision(network: nn.Cell, level: str) -> None:
    """Compute in float16: O0 nothing, O1 the convolutions, O2 all but BatchNorm, O3 all; the loss stays float32.

    Parameters stay float32, so checkpoints do not change.
    """
    if level == "O0":
        return
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.to_float(ms.float16)
        elif isinstance(cell, BatchNorm):
            cell.to_float(ms.float16 if level == "O3" else ms.float32)
        elif level != "O1" and not list(cell.cells()):
            cell.to_float(ms.float16)


def recompute_backbone(network: nn.Cell) -> None:
    """Compute the activations of the backbone's blocks again in the backward pass: less memory."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, ResidualBlock | TinyStage):
            cell.recompute()
