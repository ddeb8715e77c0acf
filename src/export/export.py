"""A checkpoint as MINDIR, AIR, ONNX or OM, with the settings that a client needs."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..base.errors import UserError, one_line
from ..config import Config
from ..detect.ascend_card import card_of
from ..detect.network_backend import load_trained
from ..detect.runtimes import ONNX_METADATA
from ..detect.settings import (
    DECODED,
    DETECTIONS,
    RAW,
    UINT8_NHWC,
    ModelSettings,
    read_settings,
    write_settings,
)
from ..layers.activations import ComposedMish, Mish
from ..logger import get_logger
from ..weights.by_name import weights_file
from ..yolo import Normalize, YoloDecoder
from .ascend_operators import report_operators
from .fold import fold_batch_norm
from .offline_model import compile_model

# Options that end_to_end writes into the file.
OF_THE_SUPPRESSION = (
    "eval_ignore_threshold", "nms_thresh", "nms_type", "published_overlap", "max_detections", "export_top_k",
)  # fmt: skip


class ComposedSilu(nn.Cell):
    """x * sigmoid(x) from two kernels, for MindSpore's ONNX export, which does not know `nn.SiLU`."""

    def construct(self, x):
        return x * ops.sigmoid(x)


# What MindSpore's ONNX exporter does not know, and the same of kernels that it does.
_FOR_ONNX = {Mish: ComposedMish, nn.SiLU: ComposedSilu}
# Ascend's Mish is right for large inputs; the guard would be an operator that older versions of Lite do not know.
_FOR_ASCEND = {Mish: nn.Mish}


def replace_activations(network: nn.Cell, kinds: Mapping[Any, Any]) -> None:
    """Replace the network's activations of some kinds by others, in place."""
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.SequentialCell) and type(cell[-1]) in kinds:
            cell[-1] = kinds[type(cell[-1])]()


class ExportedNetwork(nn.Cell):
    """The network between the input and the outputs that an export has."""

    def __init__(self, network: nn.Cell, decoder: nn.Cell | None, normalize: nn.Cell | None):
        super().__init__(auto_prefix=False)
        self.network = network
        self.decodes, self.normalizes = decoder is not None, normalize is not None
        self.decoder, self.normalize = decoder, normalize

    def construct(self, x):
        if self.normalizes:
            x = self.normalize(x)
        maps = self.network(x)
        return self.decoder(*maps) if self.decodes else maps


def runtime_options(config: Config) -> Config:
    """The options under which MindSpore writes the file: one process, and GE for AIR, which alone writes it."""
    writes_air = config.file_format == "AIR" and config.device_target == "Ascend"
    return config.replace(is_distributed=False, **({"jit_level": "O2"} if writes_air else {}))


def check_options(config: Config) -> None:
    """Refuse what does not go together (UserError), before anything is read."""
    if config.file_format == "AIR" and config.device_target != "Ascend":
        raise UserError(
            f"file_format: AIR is written on Ascend alone, device_target is {config.device_target}; "
            "choose MINDIR, ONNX or OM"
        )
    if config.file_format == "AIR" and config.jit_level not in ("", "O2"):
        raise UserError(f"jit_level: AIR is written at O2 alone, not at {config.jit_level}; leave it empty")
    if config.file_format == "OM":
        card_of(config.soc_version)
    if not config.end_to_end:
        for key in OF_THE_SUPPRESSION:
            if config.origins[key] == "command line":
                raise UserError(f"{key}: acts under end_to_end alone; add --end_to_end=1, or leave it out")
    if config.end_to_end:
        for wrong, reason in (
            (config.file_format not in ("ONNX", "OM"), "file_format: end_to_end is for ONNX and OM alone"),
            (
                config.file_format == "OM" and config.end_to_end_form != "static",
                "end_to_end_form: an OM takes fixed shapes alone; set it to static",
            ),
            (not config.keep_detect, "keep_detect: end_to_end needs the decoded boxes; set it to True"),
            (config.batch_size != 1, "batch_size: end_to_end is for one image a call; set it to 1"),
            (
                config.nms_before_clip,
                "nms_before_clip: end_to_end clips to the input first; set it to False",
            ),
            (config.multi_label, "multi_label: end_to_end gives each box its best class; set it to False"),
        ):
            if wrong:
                raise UserError(reason)
    if config.file_format in ("ONNX", "OM"):
        _need_onnx()


def export_settings(config: Config) -> ModelSettings:
    """What the exported file will take and give."""
    outputs = DETECTIONS if config.end_to_end else DECODED if config.keep_detect else RAW
    return replace(
        ModelSettings.from_config(config),
        batch_size=config.batch_size,
        input_type=config.export_input,
        outputs=outputs,
    )


def export_model(config: Config) -> Path:
    """Write `ckpt_file` (or `pretrained`) as `file_name` in `file_format`; returns the file.

    For an OM that is the ONNX where CANN's compiler is not installed.

    Raises:
        UserError: no checkpoint or one that does not fit, AIR without Ascend, a full disk.
    """
    source = config.ckpt_file or config.pretrained
    if not source:
        raise UserError("ckpt_file: not set; give the checkpoint, --ckpt_file=FILE")
    check_options(config)
    target = _target(config)
    if config.file_format == "OM":
        return _export_offline_model(config, target)
    source = str(weights_file(source, "ckpt_file", config.download_path, (".ckpt",)))
    network, config = load_trained(config, source)
    settings = export_settings(config)
    if config.fold_batch_norm:
        get_logger().info("%d BatchNorms folded into their convolutions", fold_batch_norm(network))
    device = config.device_target if config.export_for == "auto" else config.export_for
    if config.file_format == "ONNX":
        replace_activations(network, _FOR_ONNX)
    elif device == "Ascend":
        replace_activations(network, _FOR_ASCEND)
    cell = ExportedNetwork(
        network,
        YoloDecoder(config.heads) if config.keep_detect else None,
        Normalize(config.image_mean, config.image_std) if config.export_input == "uint8" else None,
    )
    cell.set_train(False)
    with _whole_file(target) as temporary:
        kind = np.uint8 if config.export_input == "uint8" else np.float32
        example = Tensor(np.zeros((config.batch_size, 3, *settings.input_hw), kind))
        ms.export(cell, example, file_name=str(temporary.with_suffix("")), file_format=config.file_format)
        if config.file_format == "ONNX":
            _complete_onnx(temporary, config, settings)
        write_settings(target, settings)
    get_logger().info("exported %s: input %s", target, _described(settings))
    return target


def _export_offline_model(config: Config, target: Path) -> Path:
    """The ONNX that an OM is made of, beside it, and the OM where CANN's compiler is installed.

    Pixels as they are enter an OM by AIPP, a part of the card that normalises them, so the ONNX has float32 input.
    """
    onnx = export_model(
        config.replace(file_format="ONNX", file_name=str(target.with_suffix(".onnx")), export_input="float32")
    )
    settings = read_settings(onnx)
    assert settings is not None  # written with the ONNX
    if config.export_input == "uint8":
        settings = replace(settings, input_type=UINT8_NHWC)
    report_operators(onnx, card_of(config.soc_version))
    write_settings(target, settings)
    if not compile_model(onnx, target, settings, config.soc_version, config.lite_precision):
        return onnx
    get_logger().info("exported %s: input %s", target, _described(settings))
    return target


def _described(settings: ModelSettings) -> str:
    height, width = settings.input_hw
    return (
        f"{settings.batch_size}x3x{height}x{width} {settings.input_type}, outputs {settings.outputs}, "
        f"{len(settings.class_names)} classes"
    )


def _target(config: Config) -> Path:
    ending = f".{config.file_format.lower()}"
    name = config.file_name if config.file_name.lower().endswith(ending) else config.file_name + ending
    target = Path(name)
    if not target.parent.is_dir():
        raise UserError(f"file_name: {target.parent} is no folder; make it first")
    return target


@contextlib.contextmanager
def _whole_file(target: Path) -> Iterator[Path]:
    """A place to export to; what is there appears under the target's name only when all went well."""
    folder = Path(tempfile.mkdtemp(prefix=".exporting-", dir=target.parent))
    temporary = folder / f"model{target.suffix}"
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        remedy = "free disk space there, or choose another file_name or file_format"
        if target.suffix == ".air":
            remedy = (
                "AIR is deprecated and written by CANN's GE alone: check CANN, or choose MINDIR, ONNX or OM"
            )
        raise UserError(f"{target}: the export failed ({one_line(error)}); {remedy}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise UserError("file_format: ONNX needs a package; pip install onnx") from error


def _complete_onnx(path: Path, config: Config, settings: ModelSettings) -> None:
    """Add post-processing, if asked for, names and metadata to MindSpore's ONNX file."""
    import onnx

    from ..detect.postprocess import postprocess_options
    from .onnx_graph import name_ends, one_opset, write_interpolation
    from .onnx_postprocess import add_postprocessing

    model = onnx.load(str(path))
    write_interpolation(model)
    one_opset(model)
    if settings.outputs == DETECTIONS:
        static = config.end_to_end_form == "static"
        model = add_postprocessing(
            model, postprocess_options(config), settings, config.export_top_k, static=static
        )
        name_ends(model, "images", ["detections", *(["count"] if static else [])])
    else:
        name_ends(
            model, "images", [f"{settings.outputs}_stride{stride}" for stride in settings.heads.strides]
        )
    onnx.helper.set_model_props(model, {ONNX_METADATA: settings.to_yaml()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
