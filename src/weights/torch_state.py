"""PyTorch state dicts of the public YOLOv4 versions, matched by layer order with every shape checked.

Those versions give each layer a name of their own (`module_list.0.Conv2d.weight`, `down1.conv1.conv.0.weight`,
`backbone.conv1.conv.weight`) but declare the layers in Darknet's order, which a state dict keeps.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import UserError, shown
from .conversion import Conversion
from .layer_order import Convolution, Layer, convolutions

# Where training scripts put the state dict in what they save.
_PLACES = ("state_dict", "model_state_dict", "model", "ema", "net", "weights")
_NORM = ("bias", "weight", "running_mean", "running_var")


@dataclass
class _Group:
    """A convolution of the file: its key and weight, and the vectors that follow it, by their last word."""

    key: str
    weight: np.ndarray
    vectors: dict[str, tuple[str, np.ndarray]] = field(default_factory=dict)


def read_state(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a state dict, in its order; code in the file is not run (`weights_only`).

    Raises:
        UserError: PyTorch is absent, or the file holds no state dict that loads without running code.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(f"{path}: reading PyTorch files needs PyTorch: pip install torch") from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file anything from struct.error to AssertionError
        raise UserError(
            f"{path}: no state dict that loads without running code from the file (truncated, or a whole pickled "
            "model); where it was made, save model.state_dict() instead"
        ) from error
    for _ in range(2):
        if isinstance(loaded, dict) and not any(isinstance(value, torch.Tensor) for value in loaded.values()):
            loaded = next((loaded[place] for place in _PLACES if isinstance(loaded.get(place), dict)), loaded)
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict()")
    try:
        return {
            str(key): value.float().numpy()
            for key, value in loaded.items()
            if isinstance(value, torch.Tensor)
        }
    except Exception as error:  # quantised, sparse, complex or without storage
        raise UserError(f"{path}: holds tensors that are no plain numbers ({shown(error)})") from error


def match_state(path: Path, state: dict[str, np.ndarray], layers: list[Layer]) -> Conversion:
    """Give the arrays of a state dict our names, by their order.

    Args:
        path: the file, for messages.
        state: arrays by PyTorch's names, in the order of the state dict.
        layers: of the network, from `darknet_layers`.

    Raises:
        UserError: another number of convolutions, or one of another shape.
    """
    groups, left_out = _group(path, state)
    wanted = convolutions(layers)
    backbone = sum(convolution.in_backbone for convolution in wanted)
    if not backbone <= len(groups) <= len(wanted):
        raise UserError(
            f"{path}: holds {len(groups)} convolutions, the network has {len(wanted)} (its backbone {backbone}); "
            "set backbone_layers as it was trained, or choose the state dict of a YOLOv4"
        )
    result = Conversion(path)
    for number, (group, convolution) in enumerate(zip(groups, wanted)):
        for parameter, (key, value) in zip(
            convolution.parameters, _in_order(path, number, group, convolution)
        ):
            if tuple(value.shape) != tuple(parameter.shape):
                raise UserError(
                    f"{path}: {key}, convolution {number}, has shape {tuple(value.shape)}, {parameter.name} has "
                    f"{tuple(parameter.shape)}; set labels, backbone_shape and lateral_kernel as it was trained"
                )
            weight = value.ndim == 4
            result.add(parameter.name, convolution.swap(value) if weight else value, key)
    result.notes.append("matched by layer order, which is taken to be Darknet's")
    if len(groups) < len(wanted):
        result.notes.append(f"a partial file: the first {len(groups)} of {len(wanted)} convolutions")
    if left_out:
        result.notes.append(f"{len(left_out)} of other layers left out: {', '.join(left_out[:4])}")
    return result


def _group(path: Path, state: dict[str, np.ndarray]) -> tuple[list[_Group], list[str]]:
    """The convolutions in their order, and the keys that belong to none."""
    groups: list[_Group] = []
    left_out = []
    for key, value in state.items():
        word = key.rsplit(".", 1)[-1]
        if value.ndim == 4:
            groups.append(_Group(key, value))
        elif value.ndim == 1 and groups and word in _NORM:
            if word in groups[-1].vectors:
                raise UserError(
                    f"{path}: {key} follows {groups[-1].vectors[word][0]}: not a YOLOv4 that is known here"
                )
            groups[-1].vectors[word] = (key, value)
        elif word != "num_batches_tracked":
            left_out.append(key)
    return groups, left_out


def _in_order(
    path: Path, number: int, group: _Group, convolution: Convolution
) -> list[tuple[str, np.ndarray]]:
    """Key and value for each of `convolution.parameters`."""
    words = ("bias",) if convolution.norm is None else _NORM
    if sorted(group.vectors) != sorted(words):
        raise UserError(
            f"{path}: {group.key}, convolution {number}, comes with {', '.join(group.vectors) or 'nothing'}, "
            f"the network's wants {', '.join(words)}; fused BatchNorm or another network"
        )
    return [*(group.vectors[word] for word in words), (group.key, group.weight)]
