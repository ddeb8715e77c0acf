"""What runs an exported file: ONNX Runtime, MindSpore, MindSpore Lite, or CANN on an `.om`.

Each function opens a file and returns a `Run`, which takes the file's input and returns its outputs as arrays of
their own: what a runtime hands out is often a view of memory that its next call overwrites.
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..base.errors import UserError, first_line
from ..config import Config
from ..logger import get_logger
from ..runtime.device import device_id
from .ascend_card import ACL_PRECISION

Run = Callable[[np.ndarray], list[np.ndarray]]

ONNX_METADATA = "yolov4_settings"
_PROVIDERS = {
    "Ascend": "CANNExecutionProvider",
    "GPU": "CUDAExecutionProvider",
    "CPU": "CPUExecutionProvider",
}
_PACKAGES = {"Ascend": "onnxruntime-cann", "GPU": "onnxruntime-gpu", "CPU": "onnxruntime"}
_NO_CPU_NODES = "session.disable_cpu_ep_fallback"


def open_onnx(path: Path, config: Config) -> tuple[Run, str | None, tuple]:
    """ONNX Runtime on a file, on `device_target`; the settings in the file's metadata, and its input's shape.

    `device_target` that nobody has set is Ascend: it then means whatever is there, and the log names it.

    Raises:
        UserError: a damaged file, or a set device that this ONNX Runtime does not run on.
    """
    runtime = _import("onnxruntime", "pip install onnxruntime")
    target = config.device_target
    if (
        config.origins["device_target"] == "default"
        and _PROVIDERS[target] not in runtime.get_available_providers()
    ):
        get_logger().info(
            "device_target is not set and ONNX Runtime has no %s: it runs on the CPU", _PROVIDERS[target]
        )
        target = "CPU"
    session = _onnx_session(runtime, path, target, config)
    try:
        text = session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a readable ONNX model (its metadata is no text); export it again"
        ) from error
    first = session.get_inputs()[0]
    return lambda batch: session.run(None, {first.name: batch}), text, tuple(first.shape)


def _onnx_session(runtime, path: Path, target: str, config: Config):
    """A session that runs on the target and nowhere else, or says which part does."""
    provider = _PROVIDERS[target]
    missing = UserError(
        f"device_target: {target} is set and ONNX Runtime does not run there (it has "
        f"{', '.join(runtime.get_available_providers())}); install {_PACKAGES[target]} and what it needs, or "
        "pass --device_target CPU"
    )
    if provider not in runtime.get_available_providers():
        raise missing
    settings = {}
    if target != "CPU":
        settings["device_id"] = str(device_id(config))
    if target == "Ascend":
        settings.update(precision_mode=ACL_PRECISION[config.lite_precision], enable_cann_graph="1")

    def start(*, cpu_too: bool):
        options = runtime.SessionOptions()
        if not cpu_too:
            options.add_session_config_entry(_NO_CPU_NODES, "1")
        return runtime.InferenceSession(
            str(path), options, providers=[(provider, settings)], enable_fallback=0
        )

    try:
        try:
            session = start(cpu_too=target == "CPU")
        except Exception as error:  # ONNX Runtime's own kinds
            if "assigned to the default CPU EP" not in str(error):
                raise
            get_logger().warning(
                "%s: some operators have no kernel in %s and run on the CPU%s", path, provider,
                f" (export.py --check_ascend={path} names them)" if target == "Ascend" else "",
            )  # fmt: skip
            session = start(cpu_too=True)
    except RuntimeError as error:  # the provider's libraries do not load
        raise missing from error
    except Exception as error:  # ONNX Runtime's own kinds, by what is damaged
        raise UserError(
            f"{path}: not a readable ONNX model ({first_line(error)}); export it again"
        ) from error
    if provider not in session.get_providers():  # which some providers only print
        raise missing
    return session


def uses_lite(config: Config) -> bool:
    """Whether MindSpore Lite runs a `.mindir` (UserError where it is asked for and not installed)."""
    installed = importlib.util.find_spec("mindspore_lite") is not None
    if config.mindir_runtime == "lite" and not installed:
        raise UserError(
            "mindir_runtime: lite is set and mindspore_lite is not installed; install it, or mindir_runtime=mindspore"
        )
    return config.mindir_runtime != "mindspore" and installed


def open_mindir(path: Path, config: Config) -> Run:
    """MindSpore Lite or MindSpore on a MINDIR (UserError for a damaged one)."""
    if uses_lite(config):
        return _open_lite(path, config)
    import mindspore as ms
    from mindspore import nn

    try:
        cell = nn.GraphCell(ms.load(str(path)))
    except Exception as error:  # RuntimeError, ValueError, UnicodeDecodeError: by what is damaged
        raise UserError(f"{path}: not a readable MINDIR ({first_line(error)}); export it again") from error

    def run(batch: np.ndarray) -> list[np.ndarray]:
        outputs = cell(ms.Tensor(batch))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return [output.asnumpy() for output in outputs]

    return run


def _open_lite(path: Path, config: Config) -> Run:
    """MindSpore Lite on a MINDIR: on Ascend, or on the CPU."""
    lite = _import("mindspore_lite", "see mindspore.cn/lite")
    context = lite.Context()
    context.target = ["ascend" if config.device_target == "Ascend" else "cpu"]
    if config.device_target == "Ascend":
        context.ascend.device_id = device_id(config)
        context.ascend.precision_mode = config.lite_precision
    model = lite.Model()
    try:
        model.build_from_file(str(path), lite.ModelType.MINDIR, context)
    except Exception as error:
        raise UserError(
            f"{path}: MindSpore Lite cannot build it ({first_line(error)}); docs/ascend_export.md says which MINDIR "
            "which version of it reads"
        ) from error

    def run(batch: np.ndarray) -> list[np.ndarray]:
        inputs = model.get_inputs()
        inputs[0].set_data_from_numpy(np.ascontiguousarray(batch))
        # get_data_to_numpy is a view of memory that the next call writes into.
        return [output.get_data_to_numpy().copy() for output in model.predict(inputs)]

    return run


def open_om(path: Path, config: Config) -> Run:
    """CANN on an offline model, by ais_bench where that is installed, otherwise by CANN's own Python interface.

    Raises:
        UserError: no card is chosen, neither package is there, or the file does not load.
    """
    if config.device_target != "Ascend":
        raise UserError(f"{path}: an .om runs on Ascend alone, device_target is {config.device_target}")
    device = device_id(config)
    try:
        if importlib.util.find_spec("ais_bench") is not None:
            session = importlib.import_module("ais_bench.infer.interface").InferSession(device, str(path))
            shape = tuple(session.get_inputs()[0].shape)
            run = lambda batch: session.infer([batch], mode="static")  # noqa: E731
        elif importlib.util.find_spec("acl") is not None:
            from .acl_model import AclModel

            model = AclModel(importlib.import_module("acl"), path, device)
            shape, run = model.input_shape, model.run
        else:
            raise UserError(
                f"{path}: neither ais_bench nor acl can be imported; source CANN's set_env.sh, which brings acl, "
                "or install ais_bench and aclruntime"
            )
    except (RuntimeError, OSError, ImportError) as error:
        raise UserError(
            f"{path}: does not load on card {device} ({first_line(error)}); it must be made for this card's chip, "
            "export.py --file_format OM --soc_version"
        ) from error

    def checked(batch: np.ndarray) -> list[np.ndarray]:
        # With AIPP CANN may name the dimensions in either order.
        n, *rest = batch.shape
        if shape not in ((n, *rest), (n, rest[2], *rest[:2]), (n, *rest[1:], rest[0])):
            raise ValueError(f"the file's input is {'x'.join(map(str, shape))}")
        outputs = run(np.ascontiguousarray(batch))
        return [np.array(part, np.float32 if part.dtype == np.float16 else part.dtype) for part in outputs]

    return checked


def _import(name: str, remedy: str):
    if importlib.util.find_spec(name) is None:
        raise UserError(f"{name} is not installed; {remedy}")
    return importlib.import_module(name)
