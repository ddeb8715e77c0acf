"""Values of a checkpoint into a network, by the published parameter names and with a report of each.

A published `.ckpt` loads with or without the `yolo_network.` prefix; optimizer slots are left out. The
published network builds a branch that no output uses (`feature_map.backblock0.conv5` and `conv6`); ours
does not, and a load says so when it meets them. A MindYOLO checkpoint loads as it is.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from ..base.errors import UserError
from ..base.heads import ANCHORS_A_CELL
from ..layers.batch_norm import epsilon_of
from . import mindyolo
from .checkpoint import read_checkpoint

UNUSED_BRANCH = ("feature_map.backblock0.conv5.", "feature_map.backblock0.conv6.")
# Momentum keeps its velocity under `moments.<name>` in the model zoo and `momentum`-like names elsewhere.
OPTIMIZER_PREFIXES = ("moments.", "moment1.", "moment2.", "accum.", "stat.", "ema.", "amp_", "ema_")
OPTIMIZER_NAMES = (
    "beta1_power",
    "beta2_power",
    "learning_rate",
    "momentum",
    "global_step",
    "epoch_num",
    "step_num",
    "scale_sense",
    "lr",
)
BACKBONE = "feature_map.backbone."
_CLASS_LAYER = re.compile(r"feature_map\.backblock[123]\.conv6\.(weight|bias)")


@dataclass
class LoadReport:
    """What a load did with each parameter of the network and of the file."""

    path: Path
    matched: list[str] = field(default_factory=list)
    unused_branch: list[str] = field(default_factory=list)
    optimizer: list[str] = field(default_factory=list)
    filtered: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{self.path}: {len(self.matched)} parameters matched"]
        if self.unused_branch:
            parts.append(f"{len(self.unused_branch)} of the published code's unused branch left out")
        if self.filtered:
            parts.append(f"{len(self.filtered)} filtered, they start anew: {', '.join(self.filtered)}")
        if self.optimizer:
            parts.append(f"{len(self.optimizer)} of the optimizer left out")
        if self.other:
            shown = ", ".join(self.other[:4]) + (", ..." if len(self.other) > 4 else "")
            parts.append(f"{len(self.other)} of other layers left out: {shown}")
        parts.extend(self.notes)
        return "; ".join(parts)


def load_network(
    network: nn.Cell,
    path: str | Path,
    *,
    skip: tuple[str, ...] = (),
    keep_boxes: bool = False,
    average: bool = True,
    values: dict[str, np.ndarray] | None = None,
) -> LoadReport:
    """Load every parameter of a YOLOv4 network from a checkpoint.

    Args:
        network: cell whose parameter names are the published ones.
        path: checkpoint; names may carry `yolo_network.` in front, or be MindYOLO's.
        skip: names that keep their present values (`checkpoint_filter_list` under `filter_weight`).
        keep_boxes: of the class layers that are skipped, take the rows of box and objectness all the same.
        average: take the moving averages (`ema.<name>`) where the checkpoint has them.
        values: what `read_checkpoint` gave, where the file has been read already.

    Raises:
        UserError: a parameter is missing in the file or has another shape there, or `skip` names one that
            the network has not.
    """
    report = LoadReport(Path(path))
    _check_filter(skip, network)
    values = _by_our_names(network, read_checkpoint(path)[0] if values is None else values, report)
    found: dict[str, np.ndarray] = {}
    filtered: dict[str, np.ndarray] = {}
    averages = {name.removeprefix("ema."): value for name, value in values.items() if name.startswith("ema.")}
    if averages and average:
        report.notes.append("their moving averages taken")
        values = {**values, **averages}
    for raw_name, value in values.items():
        name = raw_name.removeprefix("yolo_network.")
        if is_optimizer_name(name):
            report.optimizer.append(raw_name)
        elif name.startswith(UNUSED_BRANCH):
            report.unused_branch.append(raw_name)
        elif name in skip:
            report.filtered.append(name)
            filtered[name] = value
        else:
            found[name] = value
    assign(network, found, report, skip=skip)
    if keep_boxes:
        _load_box_rows(network, filtered, report)
    return report


def _load_box_rows(network: nn.Cell, filtered: dict[str, np.ndarray], report: LoadReport) -> None:
    """Rows of box and objectness of the filtered class layers; those of the classes stay as they are.

    A class layer's rows are, for each of three anchors, x, y, width, height, objectness and the classes.
    """
    parameters = _parameters(network)
    kept = [name for name in filtered if name in parameters and _CLASS_LAYER.fullmatch(name)]
    for name in kept:
        own, theirs = parameters[name].asnumpy().copy(), filtered[name]
        if (
            len(theirs) % ANCHORS_A_CELL
            or len(theirs) < 6 * ANCHORS_A_CELL
            or own.shape[1:] != theirs.shape[1:]
        ):
            raise UserError(
                f"{report.path}: {name} has shape {theirs.shape}, which does not fit {own.shape}; "
                "transfer_boxes=False leaves it out"
            )
        mine = own.reshape(ANCHORS_A_CELL, -1, *own.shape[1:])
        mine[:, :5] = theirs.reshape(ANCHORS_A_CELL, -1, *own.shape[1:])[:, :5]
        parameters[name].set_data(ms.Tensor(own, parameters[name].dtype))
    report.notes.append(f"rows of box and objectness of {len(kept)} filtered layers taken")


def load_backbone(
    network: nn.Cell, path: str | Path, *, values: dict[str, np.ndarray] | None = None
) -> LoadReport:
    """Load a CSPDarknet53 classifier's checkpoint, or a detector's, into the network's backbone.

    Names may carry `network.`, `backbone.`, `feature_map.` in front, or be MindYOLO's; the other layers are
    left out and named in the report. `values` as of `load_network`.

    Raises:
        UserError: a backbone parameter is missing in the file or has another shape there.
    """
    report = LoadReport(Path(path))
    values = _by_our_names(network, read_checkpoint(path)[0] if values is None else values, report)
    wanted = {name for name in _parameters(network) if name.startswith(BACKBONE)}
    found: dict[str, np.ndarray] = {}
    names = backbone_names(values)
    for raw_name, value in values.items():
        name = BACKBONE + names.get(raw_name, "")
        if is_optimizer_name(raw_name):
            report.optimizer.append(raw_name)
        elif name in wanted:
            found[name] = value
        else:
            report.other.append(raw_name)
    assign(network, found, report, only=wanted)
    return report


def holds_whole_network(values: dict[str, np.ndarray]) -> bool:
    """Whether a checkpoint, ours, published or MindYOLO's, has more than the backbone, and its heads."""
    names = mindyolo.translate(values)[1] if mindyolo.is_mindyolo(values) else values
    return any(name.endswith("feature_map.backblock3.conv6.weight") for name in names)


def backbone_names(names: Iterable[str]) -> dict[str, str]:
    """Of the names in a file those that may be a backbone's -> the same without what networks put in front.

    Where some say `backbone.`, the others are not the backbone's: the neck has a `conv1` too.
    """
    names = list(names)
    if any("backbone." in name for name in names):
        names = [name for name in names if "backbone." in name]
    found = {}
    for name in names:
        found[name] = name
        for prefix in ("yolo_network.", "network.", "feature_map.", "backbone."):
            found[name] = found[name].removeprefix(prefix)
    return found


def _by_our_names(
    network: nn.Cell, values: dict[str, np.ndarray], report: LoadReport
) -> dict[str, np.ndarray]:
    """Values of a checkpoint; MindYOLO's are translated, which `report` notes."""
    if not mindyolo.is_mindyolo(values):
        return values
    epsilon = epsilon_of(network)
    values, sources = mindyolo.translate(values, epsilon)
    report.notes.append(f"{len(sources)} by MindYOLO's names")
    if epsilon != mindyolo.MINDYOLO_EPSILON:
        report.notes.append(f"BatchNorm epsilon {mindyolo.MINDYOLO_EPSILON} folded in")
    if getattr(network, "downsample_padding", "symmetric") != "symmetric":
        report.notes.append("trained with downsample_padding symmetric, this network has same")
    return values


def assign(network, values, report, *, skip=(), only=None) -> None:
    """Set parameters by name; everything that is missing or misshapen is named in one error."""
    parameters = _parameters(network)
    wanted = [name for name in parameters if name not in skip and (only is None or name in only)]
    missing = [name for name in wanted if name not in values]
    if missing:
        raise UserError(
            f"{report.path}: {len(missing)} of {len(wanted)} parameters are not in it, first {missing[0]}; "
            + _remedy(
                missing, skip, "it is a checkpoint of another network (backbone_shape, backbone_layers)"
            )
        )
    misshapen = [name for name in wanted if tuple(values[name].shape) != tuple(parameters[name].shape)]
    if misshapen:
        name = misshapen[0]
        others = f" and {len(misshapen) - 1} more do not fit" if len(misshapen) > 1 else ""
        raise UserError(
            f"{report.path}: {name} has shape {tuple(values[name].shape)}, the network has "
            f"{tuple(parameters[name].shape)}{others}; "
            + _remedy(misshapen, skip, "set labels, backbone_shape and lateral_kernel as it was trained")
        )
    with np.errstate(over="ignore"):  # 1e300 is finite until it is float32
        odd = next(
            (name for name in wanted if not np.isfinite(np.asarray(values[name], np.float32)).all()), None
        )
    if odd is not None:
        raise UserError(
            f"{report.path}: {odd} holds values that are not finite; choose an earlier checkpoint"
        )
    for name in wanted:
        parameters[name].set_data(ms.Tensor(values[name], parameters[name].dtype))
        report.matched.append(name)
    report.other.extend(name for name in values if name not in parameters)


def _remedy(names: list[str], skip: tuple[str, ...], otherwise: str) -> str:
    """What to do about parameters that do not fit: the class layers alone may start anew."""
    if not all(_CLASS_LAYER.fullmatch(name) for name in names):
        return otherwise
    if skip:
        return f"for a transfer to other classes add to checkpoint_filter_list: {', '.join(names)}"
    return "set labels as it was trained, or transfer_train=True for other classes"


def _check_filter(names: Iterable[str], network: nn.Cell) -> None:
    """A name that the network has not would filter nothing, and the layer that was meant would be loaded."""
    parameters = _parameters(network)
    for name in names:
        if name not in parameters and not name.startswith(UNUSED_BRANCH):
            near = difflib.get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"checkpoint_filter_list: the network has no parameter {name!r}{hint}")


def is_optimizer_name(name: str) -> bool:
    """Whether a parameter of a checkpoint belongs to the optimizer or the loop, not to the network."""
    return name.startswith(OPTIMIZER_PREFIXES) or name in OPTIMIZER_NAMES


def _parameters(network: nn.Cell) -> dict[str, ms.Parameter]:
    return {parameter.name: parameter for parameter in network.get_parameters()}
