"""Initial weights, or the run to resume: an earlier run, a whole network, a backbone, or nothing; read before building.

A checkpoint of this project carries the names of its classes, and the class layers go by their order, so the run
takes them over.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..config import FIXED_OPTIONS, RUN_OPTIONS, Config
from ..logger import get_logger
from ..runtime.device import Runtime
from ..weights.by_name import weights_file
from ..weights.carried import check_bounds, check_carried, check_class_order, check_network, taken_over
from ..weights.checkpoint import read_checkpoint, read_good_checkpoint
from ..weights.loading import LoadReport, holds_whole_network, load_backbone, load_network
from .run_folder import last_checkpoints

RESUME, NETWORK, BACKBONE = "resume", "load", "load backbone"  # as the log has them


@dataclass(frozen=True)
class Start:
    """A checkpoint that training starts from.

    Attributes:
        kind: `RESUME` an earlier run, a whole `NETWORK`, or a `BACKBONE`.
        path: the file.
        values, state: as `read_checkpoint` gives them.
        passed_by: newer checkpoints that could not be used, a line each.
    """

    kind: str
    path: Path
    values: dict[str, np.ndarray]
    state: dict | None
    passed_by: tuple[str, ...] = ()


def find_start(config: Config) -> Start | None:
    """The start that the options name; None: random weights.

    Of several the first of `start_options` is taken; a transfer without any of them downloads the published
    network. Whether `pretrained_checkpoint` is a whole network or a backbone is seen from what it holds.

    Raises:
        UserError: no such file or no download, or not a readable checkpoint.
    """
    option = next(iter(start_options(config)), "")
    if option == "resume":
        return _newest_good(last_checkpoints(config.resume, config.ckpt_path))
    if option == "resume_yolov4":
        return _read(Path(config.resume_yolov4), RESUME)
    if option == "pretrained_checkpoint":
        return _read(_local(config, option))
    if option == "pretrained_backbone":
        return _read(_local(config, option), BACKBONE)
    if config.filter_weight and config.transfer_checkpoint_url:
        return _read(_download_for_transfer(config))
    return None


def start_options(config: Config) -> list[str]:
    """The options that are set and name a start, the one that is taken first.

    Resuming wins over a checkpoint, that over a backbone; but of these two one of the command line wins over one of
    a file, as any option of the command line does.
    """
    weights = ["pretrained_checkpoint", "pretrained_backbone"]
    weights.sort(key=lambda option: config.origins[option] != "command line")
    return [option for option in ("resume", "resume_yolov4", *weights) if config[option]]


def _newest_good(paths: list[Path]) -> Start:
    """The first of some checkpoints that a run can go on from.

    Raises:
        UserError: of the first, where none can be used.
    """
    passed_by: list[UserError] = []
    for path in paths:
        try:
            return Start(RESUME, path, *read_good_checkpoint(path), tuple(map(str, passed_by)))
        except UserError as error:
            passed_by.append(error)
    raise passed_by[0]


def _read(path: Path, kind: str = "") -> Start:
    values, state = read_checkpoint(path)
    return Start(kind or (NETWORK if holds_whole_network(values) else BACKBONE), path, values, state)


def _local(config: Config, option: str) -> Path:
    """The checkpoint that an option names, downloaded if it is an address."""
    path = weights_file(config[option], option, config.download_path, (".ckpt",))
    if option == "pretrained_backbone" and not path.is_file():
        raise UserError(
            f"{option}: {path} ({config.origins[option]}): no such checkpoint file; make it from the classifier's by "
            "utils/convert_weight_cspdarknet53.py, or start from random weights by --pretrained_backbone="
        )
    return path


def _download_for_transfer(config: Config) -> Path:
    try:
        return _local(config, "transfer_checkpoint_url")
    except UserError as error:
        raise UserError(
            "transfer_train: pretrained_checkpoint is not set, so a checkpoint is downloaded, and that failed: "
            f"{error}. Or give a file of yours, --pretrained_checkpoint=FILE"
        ) from error


def with_start_options(config: Config, start: Start | None, runtime: Runtime) -> Config:
    """The options with what the start carries: class names of class layers that are loaded, and all that a resumed
    run goes on with.

    Raises:
        UserError: an option was set, and the start carries another value that does not go with it.
    """
    if start is None:
        return config
    state = start.state or {}
    carried = state.get("options", {})
    if start.kind == RESUME:
        carried = {**carried, **_run_options(start)}
        keys = (*FIXED_OPTIONS, *RUN_OPTIONS)
        check_bounds(carried, start.values, start.path)
        check_carried(config, carried, start.path, keys)
        config = taken_over(config, carried, start.path, keys)
        _say_other_ranks(state, start.path, runtime)
        return config
    check_network(config, start.path, start.state)
    if start.kind == NETWORK and not config.filter_weight and carried.get("labels"):
        check_class_order(config, carried["labels"], start.path)
        config = taken_over(config, carried, start.path, ("labels",))
    return config


def _run_options(start: Start) -> dict:
    """What a run goes on with, of older checkpoints as far as it can be seen in them."""
    if start.state is None:
        return {}
    seen = {"seed": start.state["seed"]} if "seed" in start.state else {}
    if not any(name.startswith("ema.") for name in start.values):
        seen["ema_decay"] = 0.0
    return {**seen, **start.state.get("run_options", {})}


def _say_other_ranks(state: dict, path: Path, runtime: Runtime) -> None:
    written_by = state.get("group_size", runtime.group_size)
    if written_by != runtime.group_size and runtime.is_master:
        get_logger().warning(
            "%s was written by %s ranks, this run has %d: a step is of other images, and as many times more or fewer; "
            "the learning rate is not changed",
            path, written_by, runtime.group_size,
        )  # fmt: skip


def load_start(network, start: Start, config: Config) -> LoadReport:
    """Load the weights of a start into the network; what was done.

    Raises:
        UserError: they do not fit the network.
    """
    if start.kind == RESUME:
        return load_network(network, start.path, average=False, values=start.values)
    if start.kind == BACKBONE:
        return load_backbone(network, start.path, values=start.values)
    skip = tuple(config.checkpoint_filter_list) if config.filter_weight else ()
    return load_network(
        network, start.path, skip=skip, keep_boxes=bool(skip) and config.transfer_boxes, values=start.values
    )
