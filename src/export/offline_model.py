"""An `.om` for Ascend from an ONNX file: the command line of CANN's compiler, atc, and its run where that is installed.

Written from CANN's documentation (docs/ascend_export.md); atc itself has not run here.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

from ..base.atomic import atomic_write
from ..base.errors import UserError, one_line
from ..detect.ascend_card import ACL_PRECISION, card_of
from ..detect.settings import ModelSettings
from ..layers.normalisation import pixel_constants
from ..logger import get_logger


def aipp_config(settings: ModelSettings) -> str:
    """AIPP's configuration for uint8 RGB pixels: (pixel - mean) times 1 / deviation, a channel.

    CANN computes (pixel - mean_chn - min_chn) * var_reci_chn; mean_chn is a whole number, min_chn need not be.
    """
    height, width = settings.input_hw
    lines = [
        "aipp_mode: static",
        "related_input_rank: 0",
        "input_format: RGB888_U8",
        f"src_image_size_w: {width}",
        f"src_image_size_h: {height}",
        "csc_switch: false",
        "rbuv_swap_switch: false",
    ]
    means, factors = pixel_constants(settings.image_mean, settings.image_std, np.float64)
    for channel, (mean, factor) in enumerate(zip(means.ravel(), factors.ravel())):
        lines += [
            f"mean_chn_{channel}: 0",
            f"min_chn_{channel}: {mean:.8g}",
            f"var_reci_chn_{channel}: {factor:.8g}",
        ]
    return "aipp_op {\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def atc_command(
    onnx: Path, target: Path, settings: ModelSettings, soc_version: str, precision: str, aipp: Path | None
) -> list[str]:
    """The words of atc's command line.

    Args:
        onnx: the model.
        target: the `.om`; atc adds that ending itself.
        settings: size and batch of the input.
        soc_version: name of the chip.
        precision: Lite's name of a precision mode.
        aipp: configuration of AIPP, for uint8 input.
    """
    shape = ",".join(map(str, (settings.batch_size, 3, *settings.input_hw)))
    return [
        "atc",
        "--framework=5",  # ONNX
        f"--model={onnx}",
        f"--output={target.with_suffix('')}",
        f"--soc_version={soc_version}",
        "--input_format=NCHW",
        f"--input_shape=images:{shape}",
        f"--precision_mode={ACL_PRECISION[precision]}",
        "--output_type=FP32",
        *([f"--insert_op_conf={aipp}"] if aipp else []),
        "--log=error",
    ]


def compile_model(
    onnx: Path, target: Path, settings: ModelSettings, soc_version: str, precision: str
) -> bool:
    """Print atc's command line and run it where atc is on the path; whether `target` was written.

    Raises:
        UserError: no name of a chip, a full disk, or atc fails or writes no file.
    """
    card_of(soc_version)
    aipp = None
    if settings.input_type != "float32":
        aipp = target.with_suffix(".aipp.cfg")
        with atomic_write(aipp) as handle:
            handle.write(aipp_config(settings))
    command = atc_command(onnx, target, settings, soc_version, precision, aipp)
    get_logger().info("%s", shlex.join(command))
    if shutil.which("atc") is None:
        get_logger().warning(
            "atc is not on the path: run the line above where CANN is installed (source its set_env.sh) for %s",
            target,
        )
        return False
    target.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not target.is_file():
        said = [
            line
            for line in (done.stdout + done.stderr).splitlines()
            if "rror" in line or line.startswith("E")
        ]
        reason = one_line(
            said[0] if said else done.stdout[-200:] or done.stderr[-200:] or f"exit code {done.returncode}"
        )
        raise UserError(
            f"{target}: atc wrote no model ({reason}); run the logged command by hand for all that it says, and "
            f"compare the operators with --check_ascend={onnx}"
        )
    return True
