"""What a Darknet file says of its network: by the `.cfg` and `.names` of its name beside it, or by its length alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.coco_classes import COCO_CLASSES
from ..base.errors import UserError, one_line
from ..base.heads import ANCHORS_A_CELL, STRIDES_OF
from .named_weights import named_weights

_CONVOLUTIONS = {110: "yolov4", 21: "yolov4-tiny", 24: "yolov4-tiny-3l"}
# Darknet pads on all sides and takes x / 255.
_OF_DARKNET = {"downsample_padding": "symmetric", "image_mean": [0.0] * 3, "image_std": [1.0] * 3}


# Photographs, which COCO is of, go through the network whole; only what is larger is cut into tiles.
_OF_PHOTOGRAPHS = {"tile_size": 8192}


def options_of_weights(path: Path) -> dict[str, Any]:
    """The options of the network that a `.weights` file is of; none where nothing tells.

    A `.cfg` beside the file gives the network, its input, anchors and grid sensitivity, `.names` its classes. Without
    them the length tells the files that the Darknet project released.

    Raises:
        UserError: a `.cfg` or `.names` that cannot be read, or that is of no network.
    """
    cfg = path.with_suffix(".cfg")
    if cfg.is_file():
        found = _options_of_cfg(cfg)
        classes = found.pop("classes", 0)
    else:
        size = path.stat().st_size
        released = next((each for each in named_weights().values() if each.size == size), None)
        found = {"network": released.network, **_OF_DARKNET} if released else {}
        classes = released.classes if released else 0
    labels = _labels(path.with_suffix(".names"), classes) if classes else None
    if not labels:
        return found
    of_photographs = _OF_PHOTOGRAPHS if sorted(labels) == sorted(COCO_CLASSES) else {}
    return {**found, **of_photographs, "labels": labels}


def _labels(path: Path, classes: int) -> list[str] | None:
    """The names in `.names`; COCO's where there is no such file and there are as many."""
    if not path.is_file():
        return list(COCO_CLASSES) if classes == len(COCO_CLASSES) else None
    labels = [line.strip() for line in _read(path).splitlines() if line.strip()]
    if len(labels) != classes:
        raise UserError(f"{path}: names {len(labels)} classes, the .cfg beside it has {classes}")
    return labels


def _options_of_cfg(path: Path) -> dict[str, Any]:
    """Network, heads, input and number of classes by a `.cfg`; none where it is of another network than those here."""
    sections = read_sections(path)
    convolutions = [settings for kind, settings in sections if kind == "convolutional"]
    network = _CONVOLUTIONS.get(len(convolutions))
    heads = [settings for kind, settings in sections if kind == "yolo"]
    one_sided = any(
        each.get("stride") == "2" and each.get("size") != "3" for each in convolutions
    )  # of our making
    if network is None or one_sided or len(heads) != len(STRIDES_OF[network]):
        return {}
    net = sections[0][1]
    finest_first = (
        heads if network == "yolov4" else heads[::-1]
    )  # Darknet's yolov4 begins with stride 8, the others end
    try:
        anchors = [anchor for head in finest_first for anchor in _masked(head)]
        return {
            "network": network,
            "anchor_scales": anchors,
            "scale_x_y": [float(head.get("scale_x_y", 1)) for head in finest_first],
            "test_img_shape": [int(net["height"]), int(net["width"])],
            "classes": int(heads[0].get("classes", 20)),
            **_OF_DARKNET,
        }
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path}: [net] or [yolo] lacks or has an odd value ({one_line(error)}); copy it again, or move it away "
            "and give the network's options"
        ) from error


def _masked(head: Mapping[str, str]) -> list[list[int]]:
    """The anchors [width, height] of a head, in whole pixels."""
    numbers = [round(float(word)) for word in head["anchors"].split(",")]
    masks = [int(word) for word in head["mask"].split(",")]
    if len(masks) != ANCHORS_A_CELL:
        raise ValueError(f"mask {head['mask']} of {len(masks)} anchors")
    return [[numbers[2 * mask], numbers[2 * mask + 1]] for mask in masks]


def read_sections(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Kind and settings of each section of a `.cfg`.

    Raises:
        UserError: it cannot be read, or does not begin with [net].
    """
    sections: list[tuple[str, dict[str, str]]] = []
    for line in _read(path).splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("["):
            sections.append((line.strip("[] "), {}))
        elif "=" in line and sections:
            key, value = line.split("=", 1)
            sections[-1][1][key.strip()] = value.strip()
    if not sections or sections[0][0] not in ("net", "network"):
        raise UserError(
            f"{path}: no Darknet .cfg (it does not begin with [net]); copy it again or move it away"
        )
    return sections


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
