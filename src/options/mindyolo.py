"""MindYOLO's YAML files as options: `__BASE__`, the sections data, network, optimizer and loss, and its defaults.

What its code does whatever a file says (`AS_IN_ITS_CODE`) holds for every such file. A key is turned into options, or
must have the one value that is built in here, or is reported as without counterpart.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UserError, shown
from .mindyolo_network import network_options

BASE = "__BASE__"
DEEPEST = 8  # files that name another as their base
SECTIONS = ("data", "network", "optimizer", "loss")

# What MindYOLO's scripts set where neither file nor command line does, and what its code always does.
DEFAULTS = {
    "max_epoch": 300,
    "keep_checkpoint_max": 100,
    "eval_start_epoch": 1,
    "seed": 2,
    "nms_thresh": 0.65,
    "test_nms_thresh": 0.65,
    "infer_threshold": 0.25,
    "amp_dynamic": False,
}
AS_IN_ITS_CODE = {
    "t_max": 1,  # of no effect beside max_epoch, which the rates fall over: the larger of them holds
    "lr_scheduler": "cosine_annealing",
    "warmup_from_zero": True,
    "batch_norm_momentum": 0.97,
    "batch_norm_epsilon": 0.001,
    "assignment": "pair",
    "box_weight": "flat",
    "ignore_scope": "image",
    "padding_is_object": True,
    "letterbox_style": "mindyolo",
    "padding_grey": 114,
    "multi_label": True,
    "multi_label_thresh": 0.0,
    "nms_type": "iou",
    "nms_before_clip": True,
    "max_detections": 300,
    "max_candidates": 30000,
}

# Of the transforms: arguments that become options, and arguments that have one value here.
TRANSFORMS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "mosaic": ({"prob": "mosaic"}, {}),
    "random_perspective": (
        {
            "degrees": "perspective_degrees",
            "translate": "perspective_translate",
            "scale": "perspective_scale",
            "shear": "perspective_shear",
            "perspective": "perspective_warp",
        },
        {"prob": 1.0},
    ),
    "mixup": ({"prob": "mixup"}, {"alpha": 8.0, "beta": 8.0}),
    "hsv_augment": (
        {"hgain": "perspective_hue", "sgain": "perspective_saturation", "vgain": "perspective_value"},
        {"prob": 1.0},
    ),
    "fliplr": ({"prob": "augment_flip"}, {}),
    "label_norm": ({}, {"xyxy2xywh_": True}),
    "label_pad": ({"padding_size": "max_box"}, {"padding_value": -1}),
    "letterbox": ({}, {"scaleup": False, "only_image": True}),
    "image_norm": ({}, {"scale": 255.0}),
    "image_transpose": ({}, {"bgr2rgb": True, "hwc2chw": True}),
}
NO_AUGMENTATION = dict.fromkeys(
    (
        option
        for name in ("mosaic", "random_perspective", "mixup", "hsv_augment", "fliplr")
        for option in TRANSFORMS[name][0].values()
    ),
    0.0,
)


def is_mindyolo(document: Mapping[str, Any]) -> bool:
    """Whether a document of options has what only MindYOLO's have."""
    return BASE in document or any(isinstance(document.get(key), dict) for key in SECTIONS)


def with_bases(path: Path, read: Callable[[Path], dict], depth: int = 0) -> dict[str, Any]:
    """The document of a file laid over those that its `__BASE__` names (a path or a list, relative to the file).

    A later base wins over an earlier one; sections are merged key by key.

    Raises:
        UserError: a base that is no path or cannot be read, or bases that name each other.
    """
    document = read(path)
    bases = document.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {BASE}: {shown(repr(bases))} is neither a path nor a list of paths")
    if bases and depth == DEEPEST:
        raise UserError(f"{path}: {BASE}: more than {DEEPEST} files deep; do they name each other?")
    merged: dict[str, Any] = {}
    for base in bases:
        merged = _merged(merged, with_bases(path.parent / Path(base).expanduser(), read, depth + 1))
    return _merged(merged, document)


def _merged(below: dict, above: dict) -> dict:
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def translate(document: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """A MindYOLO document as options, and its keys without a counterpart. Other keys stay as they are.

    Raises:
        UserError: a key whose meaning differs here, or another network, loss or augmentation than is built here.
    """
    where = f"{path}: "
    options = {key: value for key, value in document.items() if key not in SECTIONS}
    _refuse_other_meanings(options, where)
    left_out: list[str] = []
    for key, reader in (
        ("data", _data), ("network", network_options), ("optimizer", _optimizer), ("loss", _loss),
    ):  # fmt: skip
        section = document.get(key, {})
        if not isinstance(section, dict):
            raise UserError(f"{where}{key}: expected a section of keys, found {shown(repr(section))}")
        found, unknown = reader(section, where)
        options = {**found, **options}
        left_out += unknown
    return {**DEFAULTS, **AS_IN_ITS_CODE, **options}, left_out


def _refuse_other_meanings(options: dict[str, Any], where: str) -> None:
    """Keys of theirs that are other options of ours; at the value that changes nothing they are dropped."""
    parts = options.pop("accumulate", 1)
    if parts != 1:
        raise UserError(
            f"{where}accumulate: {shown(parts)} means steps an update in MindYOLO, and parts of a step here; write "
            f"per_batch_size: {parts} times as large and give --accumulate={parts}"
        )
    layers = options.pop("freeze", [])
    if layers not in ([], [""], ""):
        raise UserError(
            f"{where}freeze: {shown(layers)} are layer numbers of MindYOLO; give beginnings of parameter names, such "
            "as --freeze=feature_map.backbone"
        )


def _data(section: dict, where: str) -> tuple[dict, list[str]]:
    options = {"labels": section["names"]} if "names" in section else {}
    names = section.get("names", [])
    if "nc" in section and isinstance(names, list) and names and section["nc"] != len(names):
        raise UserError(f"{where}data.nc: {shown(section['nc'])}, but data.names has {len(names)} classes")
    folders = {
        str(Path(section[key]).parent) for key in ("train_set", "val_set", "test_set") if section.get(key)
    }
    if len(folders) > 1:
        raise UserError(
            f"{where}data: train_set, val_set and test_set must lie in one folder, found {sorted(folders)}"
        )
    if folders:
        options["data_dir"] = folders.pop()
    if "num_parallel_workers" in section:
        options["num_parallel_workers"] = section["num_parallel_workers"]
    known = ("names", "nc", "train_set", "val_set", "test_set", "num_parallel_workers", "train_transforms",
             "test_transforms")  # fmt: skip
    left_out = [f"data.{key}" for key in section if key not in known]
    training = section.get("train_transforms") or []
    if training:
        options |= {"augmentation": "perspective", **NO_AUGMENTATION}
        options |= _transforms(training, f"{where}data.train_transforms", left_out)
    testing = section.get("test_transforms") or []
    if testing:
        _transforms(testing, f"{where}data.test_transforms", left_out)
        options["letterbox"] = any(each.get("func_name") == "letterbox" for each in testing)
    for each in (*training, *testing):
        if each.get("func_name") == "image_norm":
            options |= {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    return options, left_out


def _transforms(transforms: Any, where: str, left_out: list[str]) -> dict[str, Any]:
    """Options of a list of transforms; those without a counterpart are added to `left_out`."""
    if not isinstance(transforms, list) or not all(isinstance(each, dict) for each in transforms):
        raise UserError(f"{where}: expected a list of transforms with func_name")
    options: dict[str, Any] = {}
    for number, transform in enumerate(transforms):
        name = str(transform.get("func_name"))
        if name not in TRANSFORMS:
            left_out.append(f"{where.rsplit(': ', 1)[-1]}.{name}")
            continue
        renamed, fixed = TRANSFORMS[name]
        for key, value in transform.items():
            if key == "pre_transform" and value == transforms[:number]:
                continue  # the blended image is made as the first one is
            if key in renamed:
                options[renamed[key]] = value
            elif key != "func_name" and (key not in fixed or fixed[key] != value):
                remedy = f"only {fixed[key]} is done here" if key in fixed else "it has no counterpart here"
                raise UserError(f"{where}: {name}.{key}: {shown(value)}; {remedy}")
    return options


def _optimizer(section: dict, where: str) -> tuple[dict, list[str]]:
    renamed = {
        "optimizer": "optimizer", "lr_init": "lr", "gp_weight_decay": "weight_decay", "momentum": "momentum",
        "loss_scale": "loss_scale", "warmup_epochs": "warmup_epochs",
    }  # fmt: skip
    options = {renamed[key]: value for key, value in section.items() if key in renamed}
    if options.get("optimizer", "momentum") != "momentum":
        raise UserError(
            f"{where}optimizer.optimizer: {shown(options['optimizer'])}; write momentum, or optimizer: adam beside "
            "the sections"
        )
    for key, expected in (("start_factor", 1.0), ("group_param", "yolov4")):
        if section.get(key, expected) != expected:
            raise UserError(f"{where}optimizer.{key}: {shown(section[key])}; only {expected} is done here")
    if "end_factor" in section and "lr_init" in section:
        options["eta_min"] = section["end_factor"] * section["lr_init"]
    known = (*renamed, "start_factor", "group_param", "end_factor")
    return options, [f"optimizer.{key}" for key in section if key not in known]


def _loss(section: dict, where: str) -> tuple[dict, list[str]]:
    for key, expected in (("name", "YOLOv4Loss"), ("iou_threshold", 0.213), ("label_smoothing", 0.0)):
        if section.get(key, expected) != expected:
            raise UserError(f"{where}loss.{key}: {shown(section[key])}; only {expected} is built here")
    options: dict[str, Any] = {}
    if {"box", "obj", "cls"} & set(section):
        options["bbox_class_loss_coff"] = [section.get(key, 1.0) for key in ("box", "obj", "cls")]
    if "ignore_threshold" in section:
        options["ignore_threshold"] = section["ignore_threshold"]
    known = ("name", "iou_threshold", "box", "obj", "cls", "ignore_threshold", "label_smoothing")
    return options, [f"loss.{key}" for key in section if key not in known]
