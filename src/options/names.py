"""Names that users of the published systems type, and what they are here.

`ALIASES`, `ALIASES_BY_PROGRAM` and `EARLIER` are other names of one option. `expand` turns the names whose values
are written otherwise (`img_size`, `ema`, `clip_grad`, ...) into options, and tells which have no counterpart.
"""

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, shown
from .values import TRUE_FALSE

# Everywhere.
ALIASES = {
    "config": "config_path",
    "epochs": "max_epoch",
    "is_parallel": "is_distributed",
    "weight": "pretrained",
    "mindir_path": "pretrained",
    "model_path": "pretrained",
    "iou_thres": "nms_thresh",
    "conf_thres": "eval_ignore_threshold",
    "ckpt_max_num": "keep_checkpoint_max",
    "image_path": "img_path",
    "ms_loss_scaler_value": "amp_loss_scale",
    "profiler": "need_profiler",
    "summary": "tensorboard",
    "ckpt_url": "checkpoint_url",
    "ckpt_dir": "load_path",
}
# In one program; where a name is an option too, it means this on the program's command line.
ALIASES_BY_PROGRAM = {
    "train": {"save_dir": "ckpt_path", "weight": "pretrained_checkpoint"},
    "eval": {"save_dir": "log_path"},
    "test": {"save_dir": "log_path", "iou_thres": "test_nms_thresh", "conf_thres": "test_ignore_threshold"},
    "export": {"per_batch_size": "batch_size"},
    "inference": {
        "save_dir": "log_path",
        "model": "pretrained",
        "ckpt_path": "pretrained",
        "conf_thres": "infer_threshold",
    },
}
# What this project called them before: of options files, run folders and command lines that are older.
EARLIER = {
    "flip": "augment_flip",
    "degrees": "perspective_degrees",
    "translate": "perspective_translate",
    "scale": "perspective_scale",
    "shear": "perspective_shear",
    "perspective": "perspective_warp",
    "hue_gain": "perspective_hue",
    "saturation_gain": "perspective_saturation",
    "value_gain": "perspective_value",
    "sat": "self_adversarial",
    "sat_strength": "self_adversarial_strength",
    "merge": "scene_merge",
    "bands": "scene_bands",
    "stretch": "scene_stretch",
}
DATA_SINK = ("data_sink", "ms_datasink")  # MindYOLO's
CONVERTED = (
    *DATA_SINK,
    "img_size",
    "ema",
    "clip_grad",
    "clip_grad_value",
    "ms_loss_scaler",
    "strict_load",
    "run_eval_interval",
    "model_type",
)
EMA_DECAY = 0.9999  # MindYOLO's
RUNTIMES = {"Lite": "lite", "MindIR": "mindspore"}  # of model_type; a file's ending tells which are ONNX
CLIP_NORM = 10.0  # MindYOLO's where clip_grad alone is set

# MindYOLO's switches with the one setting that is how this project works; another has no counterpart.
FIXED = {
    "task": "detect", "ms_mode": 0, "ms_jit": True, "ms_enable_graph_kernel": False, "keep_loss_fp32": True,
    "anchor_base": True, "overflow_still_update": True, "auto_accumulate": False, "single_cls": False,
    "conf_free": False, "rect": False, "exec_nms": True, "save_result": True, "ema_weight": "",
    "multi_data_url": "", "pretrain_url": "", "ms_grad_sens": 1.0,
}  # fmt: skip
WITHOUT_COUNTERPART = (
    "log_level", "max_call_depth", "nbs", "nms_time_limit", "recompute_layers", "profiler_step_num",
    "opencv_threads_num",
)  # fmt: skip


def aliases_of(entry_point: str) -> dict[str, str]:
    """The other names of one option, in an entry point."""
    return {**ALIASES, **EARLIER, **ALIASES_BY_PROGRAM.get(entry_point, {})}


def foreign(entry_point: str) -> tuple[str, ...]:
    """The names that `expand` knows."""
    return (*CONVERTED, *FIXED, *_without_counterpart(entry_point))


def _without_counterpart(entry_point: str) -> tuple[str, ...]:
    has_folder = "save_dir" in aliases_of(entry_point)
    return WITHOUT_COUNTERPART if has_folder else (*WITHOUT_COUNTERPART, "save_dir")


def expand(given: Mapping[str, Any], where: str, entry_point: str) -> tuple[dict[str, Any], list[str]]:
    """Options in place of foreign names, and the names that have no counterpart.

    Args:
        given: names and values, as text or as YAML has them; other names stay as they are.
        where: what stands before a name in messages.
        entry_point: the program that they are given to; empty: any.

    Raises:
        UserError: a switch that is none; feeding from the device's queue.
    """
    options = {key: value for key, value in given.items() if key not in foreign(entry_point)}
    left_out = [
        key for key in given if key in _without_counterpart(entry_point) or _is_other(key, given[key])
    ]

    def switch(key: str) -> bool:
        value = TRUE_FALSE.get(str(given[key]).strip().lower())
        if value is None:
            raise UserError(f"{where}{key}: {shown(repr(given[key]))} is not a boolean; use True or False")
        return value

    if entry_point != "train" and str(options.get("ms_amp_level")) == "O0":
        options.pop("ms_amp_level")  # MindYOLO's programs all take it; here all but training are in float32
    for key in DATA_SINK:
        if key in given and switch(key):
            raise UserError(
                f"{where}{key}: there is no feeding from the device's queue here, the loss of every step is read and "
                "the copy of a batch is short beside it; leave it at False"
            )
    if "img_size" in given:
        options |= {"training_shape": given["img_size"], "testing_shape": given["img_size"]}
    if "ema" in given:
        options["ema_decay"] = EMA_DECAY if switch("ema") else 0.0
    if "clip_grad" in given:
        options["clip_norm"] = given.get("clip_grad_value", CLIP_NORM) if switch("clip_grad") else 0.0
    elif "clip_grad_value" in given:
        left_out.append("clip_grad_value (acts with clip_grad)")
    if "ms_loss_scaler" in given:
        kind = str(given["ms_loss_scaler"])
        if kind not in ("static", "dynamic"):
            raise UserError(f"{where}ms_loss_scaler: {shown(repr(kind))} is not one of static, dynamic")
        options["amp_dynamic"] = kind == "dynamic"
    if "strict_load" in given:
        options["filter_weight"] = not switch("strict_load")
    if "run_eval_interval" in given:
        options |= {
            "eval_interval": given["run_eval_interval"],
            "eval_start_epoch": given["run_eval_interval"],
        }
    if "model_type" in given:
        kind = str(given["model_type"])
        options |= {"mindir_runtime": RUNTIMES[kind]} if kind in RUNTIMES else {}
        if kind not in (*RUNTIMES, "ONNX"):
            left_out.append(f"model_type ({shown(kind)})")
    return options, left_out


def _is_other(key: str, value: Any) -> bool:
    """Whether a switch of `FIXED` has another setting than the one that is built in."""
    if key not in FIXED:
        return False
    return TRUE_FALSE.get(str(value).lower(), str(value)) != TRUE_FALSE.get(
        str(FIXED[key]).lower(), str(FIXED[key])
    )
