"""What a training starts from: an earlier run, a whole network, a backbone, or nothing; read before anything is built.

A checkpoint of this project carries the names of its classes, and the class layers go by their order, so the run
takes them over.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..config import Config, overlay
from ..weights.by_name import weights_file
from ..weights.carried import check_class_order, check_network
from ..weights.checkpoint import read_checkpoint
from ..weights.loading import LoadReport, holds_whole_network, load_backbone, load_network
from .run_folder import last_checkpoint

RESUME, NETWORK, BACKBONE = "resume", "load", "load backbone"  # as the log has them


@dataclass(frozen=True)
class Start:
    """A checkpoint that training starts from.

    Attributes:
        kind: `RESUME` an earlier run, a whole `NETWORK`, or a `BACKBONE`.
        path: the file.
        values, state: as `read_checkpoint` gives them.
    """

    kind: str
    path: Path
    values: dict[str, np.ndarray]
    state: dict | None


def find_start(config: Config) -> Start | None:
    """The start that the options name; None: random weights.

    Of several the first of `start_options` is taken; a transfer without any of them downloads the published
    network. Whether `pretrained_checkpoint` is a whole network or a backbone is seen from what it holds.

    Raises:
        UserError: no such file or no download, or not a readable checkpoint.
    """
    option = next(iter(start_options(config)), "")
    if option == "resume":
        return _read(last_checkpoint(config.resume, config.ckpt_path), RESUME)
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


def with_class_names(config: Config, start: Start | None) -> Config:
    """The options with the class names of the start, whose class layers are loaded.

    Raises:
        UserError: `labels` was set, and has one of the checkpoint's classes at another place.
    """
    if start is not None:
        check_network(config, start.path, start.state)
    loads_classes = start is not None and (
        start.kind == RESUME or (start.kind == NETWORK and not config.filter_weight)
    )
    carried = (start.state or {}).get("options", {}).get("labels") if loads_classes else None
    if not carried:
        return config
    if config.origins["labels"] == "default":
        return overlay(config, {"labels": carried}, str(start.path))
    check_class_order(config, carried, start.path)
    return config


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
