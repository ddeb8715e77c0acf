"""From one system's file of weights to another's: read by what the file is, written by the ending asked for."""

from pathlib import Path

import mindspore as ms

from ..base.atomic import atomic_write
from ..base.errors import UserError
from ..config import Config
from ..layers.batch_norm import EPSILON, epsilon_of
from ..yolo import build_network
from . import darknet, mindyolo, torch_state
from .carried import carried_options, with_checkpoint_options
from .checkpoint import read_checkpoint, save_checkpoint
from .conversion import Conversion
from .darknet_cfg import options_of_weights
from .layer_order import Layer, darknet_layers
from .loading import (
    BACKBONE,
    LoadReport,
    assign,
    backbone_names,
    holds_whole_network,
    load_backbone,
    load_network,
)

_MINDSPORE, _DARKNET, _TORCH = "MindSpore", "Darknet", "PyTorch"
_READABLE = "a MindSpore .ckpt (ours, published or MindYOLO's), Darknet's .weights or a PyTorch state dict"


def convert(config: Config, source: Path, out: Path, epsilon: float | None = None) -> Conversion:
    """Read weights of any known system and write them as `.ckpt` or `.weights` (with `.cfg` and `.names`).

    A checkpoint of this project brings its class names and the network's other options, and hands them on; so does
    a Darknet file with its `.cfg` beside it, or of a length that is known (`options_of_weights`).
    Beside `out` a table tells where each parameter came from (`<out>.tsv`).

    Args:
        config: describes the network: labels, backbone_shape and so on.
        source: the file to read.
        out: the file to write; its ending tells the format.
        epsilon: what the source's BatchNorm adds to the variance, where it is neither Darknet's and PyTorch's
            0.00001 nor MindYOLO's 0.001.

    Raises:
        UserError: the file cannot be read, is of another network, or the ending of `out` is unknown.
    """
    if out.suffix not in (".ckpt", ".weights"):
        raise UserError(f"--out: {out} must end in .ckpt or .weights")
    if out.resolve() == source.resolve():
        raise UserError(f"--out: {out} is the file that is read; give another name")
    if epsilon is not None and not 0 < epsilon < 1:
        raise UserError(f"--bn_epsilon: {epsilon} must be a small positive number such as 0.0001")
    system = _system(source)
    values, state = read_checkpoint(source) if system == _MINDSPORE else ({}, None)
    if system == _DARKNET and (known := options_of_weights(source)):
        state = {"options": known}
    config = with_checkpoint_options(config, source, state, values)
    network = build_network(config)
    layers = darknet_layers(network)
    ours = config.batch_norm_epsilon
    theirs = EPSILON if epsilon is None else epsilon
    if system == _MINDSPORE:
        result, usual = _from_checkpoint(network, source, values)  # values are for ours already
        theirs = ours if epsilon is None else ours + epsilon - usual
    elif system == _DARKNET:
        result = darknet.read_weights(source, layers, config.image_mean, config.image_std)
        if state:
            result.notes.append(f"{config.network}, {config.num_classes} classes, by its .cfg or its length")
    else:
        result = torch_state.match_state(source, torch_state.read_state(source), layers)
    result.values = mindyolo.fold_epsilon(result.values, theirs, ours)
    only = None if len(result.values) == len(network.parameters_dict()) else result.values
    assign(network, result.values, LoadReport(source), only=only)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".ckpt":
        parameters = [ms.Parameter(value, name=name) for name, value in _tensors(result)]
        options = carried_options(config)
        save_checkpoint(parameters, out, {"options": options} if (state or {}).get("options") else None)
    else:
        _write_darknet(config, layers, result, out)
    with atomic_write(out.with_name(f"{out.name}.tsv")) as handle:
        handle.write(result.table())
    return result


def _tensors(result: Conversion):
    return ((name, ms.Tensor(value)) for name, value in result.values.items())


def _write_darknet(config: Config, layers: list[Layer], result: Conversion, out: Path) -> None:
    """`.weights`, `.cfg` and, for a whole network, `.names`; only the first layers if there are no more."""
    kept = darknet.first_layers(layers, result.values)
    layout = darknet.own_layout(kept, config.image_mean, config.image_std)
    values = mindyolo.fold_epsilon(result.values, config.batch_norm_epsilon, EPSILON)  # Darknet's is 0.00001
    darknet.write_weights(out, kept, values, layout)
    text = darknet.cfg_text(
        kept,
        layout,
        input_hw=config.eval_input_hw,
        heads=config.heads,
        classes=config.num_classes,
        ignore_threshold=config.ignore_threshold,
    )
    with atomic_write(out.with_suffix(".cfg")) as handle:
        handle.write(text)
    if len(kept) == len(layers):
        with atomic_write(out.with_suffix(".names")) as handle:
            handle.write("".join(f"{label}\n" for label in config.labels))


def _system(source: Path) -> str:
    """Which system's weights a file holds: by its ending and its first bytes."""
    if not source.is_file():
        raise UserError(f"--from: {source}: no such file")
    with source.open("rb") as handle:
        start = handle.read(12)
    if source.suffix == ".weights" or darknet.looks_like_weights(start):
        return _DARKNET
    if source.suffix in (".pt", ".pth") or start[:2] == b"PK" or start[:1] == b"\x80":
        return _TORCH
    if source.suffix == ".ckpt" or start[:1] == b"\n":  # the tag of the first field of a MindSpore checkpoint
        return _MINDSPORE
    raise UserError(f"{source}: not weights that are known here; give {_READABLE}")


def _from_checkpoint(network, source: Path, values: dict) -> tuple[Conversion, float]:
    """A MindSpore checkpoint of the whole network or of its backbone, and the epsilon of its system."""
    sources = mindyolo.translate(values)[1]
    whole = holds_whole_network(values)
    report = (load_network if whole else load_backbone)(network, source, values=values)
    result = Conversion(source, notes=list(report.notes))
    parameters = network.parameters_dict()
    for name in report.matched:
        result.add(name, parameters[name].asnumpy(), sources.get(name, name))
    if not whole:
        result.notes.append("the backbone alone")
    if report.other:
        result.notes.append(f"{len(report.other)} of other layers left out: {', '.join(report.other[:4])}")
    return result, mindyolo.MINDYOLO_EPSILON if sources else epsilon_of(network)


def rename_backbone(source: Path, out: Path) -> str:
    """Rename a CSPDarknet53 checkpoint: the model zoo's names, which are ours, to MindYOLO's, and MindYOLO's to ours.

    On the way to MindYOLO values stay as they are, as by MindYOLO's own script; on the way from it, the
    difference of epsilon goes into the moving variance. Other layers are left out.

    Returns:
        One line on what was done.

    Raises:
        UserError: the file holds no such backbone.
    """
    values, _ = read_checkpoint(source)
    system = "the model zoo's"
    if mindyolo.is_mindyolo(values):
        values, sources = mindyolo.translate(values)
        found = {name: name for name in sources if name.startswith(BACKBONE)}
    else:
        system = "MindYOLO's"
        renamed = {raw: mindyolo.mindyolo_name(name) for raw, name in backbone_names(values).items()}
        found = {name: raw for raw, name in renamed.items() if name is not None}
        sources = found
    if not found:
        raise UserError(f"{source}: holds no CSPDarknet53 (neither the model zoo's names nor MindYOLO's)")
    result = Conversion(source)
    for name, raw in found.items():
        result.add(name, values[raw], sources[name])
    save_checkpoint([ms.Parameter(value, name=name) for name, value in _tensors(result)], out)
    with atomic_write(out.with_name(f"{out.name}.tsv")) as handle:
        handle.write(result.table())
    others = len(values) - len(found)
    return f"{source}: {len(found)} parameters by {system} names in {out}; {others} of other layers left out"
