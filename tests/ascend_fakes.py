"""Stand-ins for what runs on an Ascend card. They compute by ONNX Runtime on the CPU and misbehave as the real ones do.

A fake `.om` is what the fake atc writes: JSON of its command line. A fake MINDIR is a file beside an ONNX of its name.
"""

import ctypes
import importlib.machinery
import json
import re
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import onnxruntime

RealSession = onnxruntime.InferenceSession


def fake_module(monkeypatch, name: str, **content) -> types.ModuleType:
    """A module that can be imported, as long as the test runs."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class _Graph:
    """An ONNX file whose results land in buffers that the next call overwrites."""

    def __init__(self, path):
        self.session = RealSession(str(path), providers=["CPUExecutionProvider"])
        self.shape = self.session.get_inputs()[0].shape
        self.buffers = None

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        results = self.session.run(None, {self.session.get_inputs()[0].name: batch})
        if self.buffers is None:
            self.buffers = [np.empty_like(result) for result in results]
        for buffer, result in zip(self.buffers, results):
            buffer[...] = result
        return self.buffers


def install_lite(monkeypatch) -> types.SimpleNamespace:
    """`mindspore_lite`; returns what it was asked: device, precision, target."""
    asked = types.SimpleNamespace(contexts=[])

    class Context:
        def __init__(self):
            self.target = ["cpu"]
            self.ascend = types.SimpleNamespace(device_id=0, precision_mode="enforce_fp16")
            asked.contexts.append(self)

    class Tensor:
        def __init__(self, array):
            self.array = array

        def set_data_from_numpy(self, batch):
            if (batch.dtype, batch.nbytes) != (self.array.dtype, self.array.nbytes):
                raise RuntimeError(f"data size not equal! Numpy size: {batch.nbytes}")
            self.array[...] = batch.reshape(self.array.shape)

        def get_data_to_numpy(self):
            return self.array  # a view, as Lite 2.0.0 gives

    class Model:
        def build_from_file(self, path, kind, context):
            assert kind == "MINDIR" and context is asked.contexts[-1]
            if Path(path).read_bytes() != b"version 1":
                raise RuntimeError("build_from_file failed! Error is Common error code.")
            self.graph = _Graph(Path(path).with_suffix(".onnx"))
            self.input = Tensor(np.zeros(self.graph.shape, np.float32))

        def get_inputs(self):
            return [self.input]

        def predict(self, inputs):
            return [Tensor(buffer) for buffer in self.graph.run(inputs[0].array)]

    fake_module(
        monkeypatch,
        "mindspore_lite",
        Context=Context,
        Model=Model,
        ModelType=types.SimpleNamespace(MINDIR="MINDIR"),
    )
    return asked


def _forbids_cpu_nodes(options) -> bool:
    try:
        return options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    except RuntimeError:  # not set
        return False


def install_onnx_providers(monkeypatch, available: list[str], *, loads="yes", cpu_nodes=False) -> list:
    """ONNX Runtime with other providers; returns those of each session, with their settings.

    Args:
        monkeypatch: of the test.
        available: what it says that it has.
        loads: whether the provider's libraries load: yes, error, as onnxruntime-cann 1.24.4 says that it does not
            without CANN, or quietly, as others print it and take the CPU.
        cpu_nodes: whether some operators have no kernel but the CPU's.
    """
    sessions = []

    class Fail(Exception):
        """ONNX Runtime's own kinds are no RuntimeError."""

    class Session(RealSession):
        def __init__(self, path, options, providers, enable_fallback):
            sessions.append(providers)
            if loads == "error":
                raise RuntimeError("create CANN ExecutionProvider fail")
            if cpu_nodes and _forbids_cpu_nodes(options):
                raise Fail("This session contains graph nodes that are assigned to the default CPU EP, but fallback "
                           "to CPU EP has been explicitly disabled by the user.")  # fmt: skip
            super().__init__(path, providers=["CPUExecutionProvider"])
            self.names = ["CPUExecutionProvider"]
            if loads == "yes":
                self.names.insert(0, providers[0][0])

        def get_providers(self):
            return self.names

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return sessions


ATC = """\
    #!{python}
    import json, pathlib, sys
    words = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
    if words["soc_version"] == "Ascend310P9":
        print("ATC start working now, please wait for a moment.")
        print("E10001: Value [Ascend310P9] for parameter [--soc_version] is invalid.")
        sys.exit(1)
    for name in ("model", "insert_op_conf"):
        if name in words:
            words[name] = str(pathlib.Path(words[name]).resolve(strict=True))
    pathlib.Path(words["output"] + ".om").write_text(json.dumps(words))
    print("ATC run success, welcome to the next use.")
"""


def install_atc(monkeypatch, folder: Path) -> None:
    """`atc` on the path: writes the `.om` that the runtimes below read."""
    program = folder / "atc"
    program.write_text(textwrap.dedent(ATC).format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


class _OfflineModel(_Graph):
    """A fake `.om`: its ONNX behind its AIPP."""

    def __init__(self, path):
        words = json.loads(Path(path).read_text())
        super().__init__(words["model"])
        name, _, dims = words["input_shape"].partition(":")
        assert (name, [int(side) for side in dims.split(",")]) == ("images", self.shape)
        self.aipp = None
        if "insert_op_conf" in words:
            found = re.findall(r"(\w+)\s*:\s*([\w.]+)", Path(words["insert_op_conf"]).read_text())
            self.aipp = dict(found)
            n, channels, height, width = self.shape
            assert (self.aipp["src_image_size_h"], self.aipp["src_image_size_w"]) == (str(height), str(width))
            assert self.aipp["input_format"] == "RGB888_U8"
            self.shape = [n, height, width, channels]
        self.kind = np.uint8 if self.aipp else np.float32
        self.size = int(np.prod(self.shape)) * np.dtype(self.kind).itemsize

    def execute(self, data: bytes) -> list[np.ndarray]:
        batch = np.frombuffer(data, self.kind).reshape(self.shape)
        if self.aipp:  # the formula of CANN's documentation
            value = [
                [float(self.aipp[f"{key}_chn_{c}"]) for c in range(3)] for key in ("mean", "min", "var_reci")
            ]
            batch = (batch - np.float32(value[0]) - np.float32(value[1])) * np.float32(value[2])
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32)
        return self.run(batch)


def install_ais_bench(monkeypatch) -> list[int]:
    """`ais_bench`; returns the cards that models were loaded on."""
    cards = []

    class InferSession:
        def __init__(self, device_id, model_path):
            cards.append(device_id)
            self.model = _OfflineModel(model_path)

        def get_inputs(self):
            return [types.SimpleNamespace(shape=self.model.shape)]

        def infer(self, feeds, mode):
            assert mode == "static" and len(feeds) == 1
            if feeds[0].nbytes != self.model.size:
                raise RuntimeError(
                    f"Check i:0 in size:{feeds[0].nbytes} needsize:{self.model.size} not match"
                )
            return self.model.execute(feeds[0].tobytes())

    fake_module(monkeypatch, "ais_bench")
    fake_module(monkeypatch, "ais_bench.infer")
    fake_module(monkeypatch, "ais_bench.infer.interface", InferSession=InferSession)
    return cards


class FakeAcl:
    """CANN's Python interface: memory by address, codes instead of exceptions, one set of output buffers."""

    def __init__(self):
        self.calls, self.memory, self.models = [], {}, {}
        self.rt = types.SimpleNamespace(
            set_device=self._set_device,
            malloc=self._malloc,
            memcpy=self._memcpy,
            reset_device=lambda device: 0,
        )
        self.mdl = types.SimpleNamespace(
            load_from_file=self._load,
            create_desc=dict,
            get_desc=self._describe,
            get_num_inputs=lambda description: 1,
            get_num_outputs=lambda description: len(description["outputs"]),
            get_input_dims=lambda description, index: ({"dims": description["model"].shape}, 0),
            get_input_size_by_index=lambda description, index: description["model"].size,
            get_output_dims=lambda description, index: (
                {"dims": list(description["outputs"][index].shape)},
                0,
            ),
            get_output_data_type=lambda description, index: 0,
            # CANN reserves memory in steps of 512 bytes.
            get_output_size_by_index=lambda description, index: (
                -(-description["outputs"][index].nbytes // 512) * 512
            ),
            create_dataset=list,
            add_dataset_buffer=lambda dataset, part: (dataset.append(part) or dataset, 0),
            execute=self._execute,
            unload=lambda model: 0,
        )

    def init(self):
        self.calls.append("init")
        return 100002 if self.calls.count("init") > 1 else 0

    def finalize(self):
        return 0

    def create_data_buffer(self, address, size):
        return address, size

    def _set_device(self, device):
        self.calls.append(f"device {device}")
        return 0

    def _malloc(self, size, policy):
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer), 0

    def _memcpy(self, target, target_size, source, size, direction):
        if size > target_size:
            return 100000
        ctypes.memmove(target, source, size)
        return 0

    def _load(self, path):
        try:
            self.models[1] = _OfflineModel(path)
        except (OSError, ValueError):
            return 0, 500002
        return 1, 0

    def _describe(self, description, number):
        model = self.models[number]
        outputs = model.execute(bytes(model.size))
        description.update(model=model, outputs=outputs)
        return 0

    def _execute(self, number, inputs, outputs):
        ((address, size),) = inputs
        for (target, room), result in zip(
            outputs, self.models[number].execute(ctypes.string_at(address, size))
        ):
            assert result.nbytes <= room
            ctypes.memmove(target, np.ascontiguousarray(result).ctypes.data, result.nbytes)
        return 0


def install_acl(monkeypatch) -> FakeAcl:
    """`acl`, without ais_bench; returns it."""
    acl = FakeAcl()
    content = {name: getattr(acl, name) for name in ("init", "finalize", "create_data_buffer", "rt", "mdl")}
    fake_module(monkeypatch, "acl", **content)
    return acl
