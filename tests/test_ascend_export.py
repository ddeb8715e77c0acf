"""What runs on Ascend alone, against stand-ins (`ascend_fakes`): Lite, ONNX Runtime's CANN, atc, ais_bench, pyACL."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest

from src.base.errors import UserError
from src.config import load_config
from src.detect.ascend_card import ACL_PRECISION, card_of
from src.detect.backends import open_model
from src.detect.postprocess import PostprocessOptions, postprocess
from src.detect.settings import ModelSettings, read_settings
from src.export import ascend_operators
from src.export.export import export_model
from src.export.offline_model import aipp_config, atc_command
from src.transforms import ResizeGeometry
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests import ROOT, ascend_fakes
from tests.test_export import assert_same_boxes
from tests.tiny import OPTIONS

LITE_WORKER = Path(__file__).with_name("lite_worker.py")
NETWORK = [*OPTIONS, "--testing_shape=", "--test_img_shape=64,96"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny network as checkpoint and as ONNX of two images a call."""
    ms.set_context(mode=ms.GRAPH_MODE)
    folder = tmp_path_factory.mktemp("ascend")
    network = build_network(load_config(NETWORK))
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        if len(parameter.shape) == 4:
            value = rng.normal(0, np.sqrt(1.5 / np.prod(parameter.shape[1:])), parameter.shape)
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    save_checkpoint(network, folder / "net.ckpt")
    return export(folder, "ONNX", "--batch_size=2", f"--file_name={folder}/net")


def export(folder, file_format, *words):
    return export_model(
        load_config([*NETWORK, f"--ckpt_file={folder}/net.ckpt", f"--file_format={file_format}", *words])
    )


@pytest.fixture(scope="module")
def forms(model):
    """ONNX files of one image a call, by name."""
    static = ["--end_to_end=1", "--end_to_end_form=static", "--eval_ignore_threshold=0.05"]
    words = {"maps": [], "raw": ["--keep_detect=0"], "dynamic": ["--end_to_end=1"], "static": static}
    return {
        name: export(model.parent, "ONNX", f"--file_name={model.parent}/{name}", *more)
        for name, more in words.items()
    }


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 3, 64, 96), np.uint8)


@pytest.fixture(scope="module")
def reference(model, images):
    """Decoded maps of the images, one by one, by ONNX Runtime alone: no batching of ours."""
    backend, _ = open_model(load_config(["--device_target=CPU", f"--pretrained={model}"]))
    found = [backend.predict(image[None]) for image in images]
    return [np.concatenate(level) for level in zip(*found)]


def opened(path, *words):
    return open_model(load_config([f"--pretrained={path}", "--device_target=Ascend", *words]))[0]


def assert_maps(maps, reference, tolerance=1e-5):
    assert [len(level) for level in maps] == [5, 5, 5]
    for level, expected in zip(maps, reference):
        np.testing.assert_allclose(level, expected, rtol=tolerance, atol=tolerance)


# MindSpore Lite


@pytest.fixture
def mindir(model, tmp_path):
    for name in ("net.onnx", "net.onnx.yaml"):
        shutil.copy(model.with_name(name), tmp_path)
    (tmp_path / "net.onnx.yaml").rename(tmp_path / "net.mindir.yaml")
    (tmp_path / "net.mindir").write_bytes(b"version 1")
    return tmp_path / "net.mindir"


def test_lites_results_are_no_views(monkeypatch, mindir, images, reference):
    """More images than the file's batch: with views each call would give all images the last one's boxes."""
    ascend_fakes.install_lite(monkeypatch)
    assert_maps(opened(mindir).predict(images), reference)


def test_lite_is_told_the_card_and_the_precision(monkeypatch, mindir):
    asked = ascend_fakes.install_lite(monkeypatch)
    opened(mindir)
    opened(mindir, "--device_id=5", "--lite_precision=enforce_fp32")
    monkeypatch.setenv("DEVICE_ID", "3")
    opened(mindir, "--device_id=5")
    told = [
        (context.target, context.ascend.device_id, context.ascend.precision_mode)
        for context in asked.contexts
    ]
    assert told == [
        (["ascend"], 0, "preferred_fp32"),
        (["ascend"], 5, "enforce_fp32"),
        (["ascend"], 3, "preferred_fp32"),
    ]


def test_a_mindir_that_lite_does_not_read(monkeypatch, mindir):
    ascend_fakes.install_lite(monkeypatch)
    mindir.write_bytes(b"version 3")
    with pytest.raises(
        UserError, match=r"net.mindir: MindSpore Lite cannot build it .*docs/ascend_export.md"
    ):
        opened(mindir)


# ONNX Runtime

CANN, CPU = "CANNExecutionProvider", "CPUExecutionProvider"


def test_onnx_on_ascend_takes_cann_with_card_and_precision(monkeypatch, model, images, reference):
    sessions = ascend_fakes.install_onnx_providers(monkeypatch, [CANN, CPU])
    monkeypatch.setenv("DEVICE_ID", "2")
    assert_maps(opened(model).predict(images), reference)
    opened(model, "--lite_precision=enforce_fp16")
    settings = {"device_id": "2", "enable_cann_graph": "1"}
    assert sessions == [
        [(CANN, {**settings, "precision_mode": "allow_fp32_to_fp16"})],
        [(CANN, {**settings, "precision_mode": "force_fp16"})],
    ]


@pytest.mark.parametrize(
    "available,loads", [([CPU], "yes"), ([CANN, CPU], "error"), ([CANN, CPU], "quietly")]
)
def test_onnx_on_ascend_does_not_fall_back_to_the_cpu(monkeypatch, model, available, loads):
    """Neither where there is no such provider nor where its libraries do not load, which ONNX Runtime only prints."""
    ascend_fakes.install_onnx_providers(monkeypatch, available, loads=loads)
    with pytest.raises(
        UserError, match=r"Ascend is set and ONNX Runtime does not run there .*onnxruntime-cann"
    ):
        opened(model)


def test_operators_that_run_on_the_cpu_are_said(monkeypatch, model, caplog):
    sessions = ascend_fakes.install_onnx_providers(monkeypatch, [CANN, CPU], cpu_nodes=True)
    monkeypatch.setattr("src.detect.runtimes.get_logger", lambda: __import__("logging").getLogger("test"))
    opened(model)
    assert len(sessions) == 2 and f"--check_ascend={model} names them" in caplog.text


def test_a_device_that_nobody_set_is_what_is_there(monkeypatch, model, images, reference, caplog):
    monkeypatch.setattr("src.detect.runtimes.get_logger", lambda: __import__("logging").getLogger("test"))
    caplog.set_level("INFO")
    backend, _ = open_model(load_config([f"--pretrained={model}"]))
    assert_maps(backend.predict(images), reference)
    assert "device_target is not set" in caplog.text and "runs on the CPU" in caplog.text


def test_the_cpu_is_asked_for_alone(monkeypatch, model):
    sessions = ascend_fakes.install_onnx_providers(monkeypatch, [CANN, CPU])
    open_model(load_config([f"--pretrained={model}", "--device_target=CPU"]))
    assert sessions == [[(CPU, {})]]


# OM


def test_atcs_command_line(tmp_path):
    """As CANN documents the options (devaids/atctool)."""
    settings = ModelSettings.from_config(load_config(NETWORK))
    command = atc_command(
        Path("a/net.onnx"), Path("a/net.om"), settings, "Ascend310B1", "preferred_fp32", Path("x.cfg")
    )
    assert command == [
        "atc", "--framework=5", "--model=a/net.onnx", "--output=a/net", "--soc_version=Ascend310B1",
        "--input_format=NCHW", "--input_shape=images:0,3,64,96", "--precision_mode=allow_fp32_to_fp16",
        "--output_type=FP32", "--insert_op_conf=x.cfg", "--log=error",
    ]  # fmt: skip
    assert set(ACL_PRECISION.values()) == {
        "force_fp32", "allow_fp32_to_fp16", "force_fp16", "must_keep_origin_dtype", "allow_mix_precision"
    }  # fmt: skip


def test_aipp_normalises_as_the_network_was_trained():
    """(pixel - mean - min) * var_reci of AIPP is (pixel / 255 - mean) / std."""
    lines = aipp_config(ModelSettings.from_config(load_config(NETWORK))).splitlines()
    assert lines[0] == "aipp_op {" and lines[-1] == "}"
    value = dict(line.strip().split(": ") for line in lines[1:-1])
    for channel, (mean, std) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        ours = (200 - float(value[f"mean_chn_{channel}"]) - float(value[f"min_chn_{channel}"])) * float(
            value[f"var_reci_chn_{channel}"]
        )
        assert ours == pytest.approx((200 / 255 - mean) / std, rel=1e-6)
        assert float(value[f"mean_chn_{channel}"]) == int(
            value[f"mean_chn_{channel}"]
        )  # a whole number for CANN


@pytest.mark.parametrize("interface", ["ais_bench", "acl"])
@pytest.mark.parametrize("input_type", ["float32", "uint8"])
def test_an_om_from_atc_to_boxes(monkeypatch, tmp_path, model, images, reference, interface, input_type):
    """The checkpoint through ONNX, atc and either Python interface gives the network's maps, image by image."""
    ascend_fakes.install_atc(monkeypatch, tmp_path)
    target = export(
        model.parent, "OM", "--batch_size=2", f"--file_name={tmp_path}/net", f"--export_input={input_type}",
        "--soc_version=Ascend310P3",
    )  # fmt: skip
    assert target == tmp_path / "net.om"
    assert read_settings(target).input_type == {"float32": "float32", "uint8": "uint8_nhwc"}[input_type]
    assert (tmp_path / "net.aipp.cfg").exists() == (input_type == "uint8")
    monkeypatch.setenv("DEVICE_ID", "4")
    if interface == "acl":
        acl = ascend_fakes.install_acl(monkeypatch)
        assert_maps(opened(target).predict(images), reference, 1e-4)
        assert acl.calls[0] == "init" and set(acl.calls[1:]) == {"device 4"}
        opened(target)  # once more in one process
    else:
        cards = ascend_fakes.install_ais_bench(monkeypatch)
        assert_maps(opened(target).predict(images), reference, 1e-4)
        assert cards == [4]
    backend = opened(target)
    with pytest.raises(UserError, match=r"net.om: does not run on .* \(the file's input is 2x"):
        backend.predict(np.zeros((2, 3, 96, 64), np.uint8))  # as many bytes, turned on its side


def test_an_end_to_end_om(monkeypatch, tmp_path, model, images, reference):
    ascend_fakes.install_atc(monkeypatch, tmp_path)
    ascend_fakes.install_acl(monkeypatch)
    words = [
        "--soc_version=Ascend310B1",
        "--end_to_end=1",
        "--end_to_end_form=static",
        "--eval_ignore_threshold=0.05",
    ]
    target = export(model.parent, "OM", f"--file_name={tmp_path}/net", *words)
    ours = PostprocessOptions(score_threshold=0.05, nms_threshold=1, max_candidates=1000)
    (found,) = opened(target).detect(images[:1]).detections([(96, 64)], [ResizeGeometry(1, 1)], ours)
    ours = PostprocessOptions(score_threshold=0.05, max_candidates=1000)
    expected = postprocess([level[0] for level in reference], (96, 64), ours)
    assert len(expected) > 5
    assert_same_boxes(np.column_stack([found.boxes, found.scores, found.classes]), expected)


def test_without_atc_its_line_is_printed(monkeypatch, tmp_path, model, caplog):
    monkeypatch.setenv("PATH", "/nowhere")
    caplog.set_level("INFO")
    monkeypatch.setattr(
        "src.export.offline_model.get_logger", lambda: __import__("logging").getLogger("test")
    )
    target = export(model.parent, "OM", f"--file_name={tmp_path}/net", "--soc_version=Ascend310P3")
    assert target == tmp_path / "net.onnx" and not (tmp_path / "net.om").exists()
    assert "--input_shape=images:1,3,64,96" in caplog.text and "atc is not on the path" in caplog.text


def test_an_atc_that_fails(monkeypatch, tmp_path, model):
    ascend_fakes.install_atc(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"net.om: atc wrote no model \(E10001: Value \[Ascend310P9\]"):
        export(model.parent, "OM", f"--file_name={tmp_path}/net", "--soc_version=Ascend310P9")


def test_offline_models_that_are_refused(monkeypatch, tmp_path):
    (tmp_path / "net.om").write_text("no model")
    with pytest.raises(UserError, match="neither ais_bench nor acl can be imported"):
        opened(tmp_path / "net.om")
    with pytest.raises(UserError, match=r"an \.om runs on Ascend alone, device_target is CPU"):
        opened(tmp_path / "net.om", "--device_target=CPU")
    ascend_fakes.install_acl(monkeypatch)
    with pytest.raises(
        UserError, match=r"does not load on card 0 .acl\.mdl.load_from_file gives error 500002"
    ):
        opened(tmp_path / "net.om")


@pytest.mark.parametrize(
    "chip,card",
    [
        ("Ascend310", "310"), ("Ascend310P3", "310P"), ("Ascend310B1", "310B"), ("Ascend910A", "910"),
        ("Ascend910B", "910"), ("Ascend910ProB", "910"), ("Ascend910B3", "910B"), ("Ascend910B4-1", "910B"),
    ],
)  # fmt: skip
def test_cards_of_chips(chip, card):
    assert card_of(chip) == card


# Operators


def test_check_ascend(forms):
    """The dynamic end-to-end file has a loop, which no tool takes; the static one and the maps pass everywhere."""
    looped = {
        "atc_5.0": ["Loop"],
        "atc_8.0": ["Loop"],
        "ort_cann": ["Loop"],
        "lite_2.0": ["Compress", "GreaterOrEqual"],
        "fixed_size": ["Compress", "Loop", "NonZero"],
    }
    for name, path in forms.items():
        found = ascend_operators.refused_operators(ascend_operators.operators_of(path))
        assert {tool: names for tool, names in found.items() if names} == (
            looped if name == "dynamic" else {}
        )
        assert ascend_operators.report_operators(path) == (name == "dynamic")
    assert ascend_operators.refused_operators({"Conv", "NoSuchOperator"})["atc_8.0"] == ["NoSuchOperator"]


def test_check_ascend_as_a_command(tmp_path):
    def run(path):
        command = [sys.executable, "export.py", f"--check_ascend={path}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run(tmp_path / "no.onnx").stderr == f"error: check_ascend: {tmp_path}/no.onnx: no such file\n"
    graph = onnx.helper.make_graph([onnx.helper.make_node("Einsum", ["x"], ["y"])], "g", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "einsum.onnx"))
    done = run(tmp_path / "einsum.onnx")
    assert done.returncode == 1 and "310P: ONNX Runtime's CANN provider does not take Einsum" in done.stdout


# The real MindSpore Lite 2.0.0


def lite_python() -> str:
    """A Python 3.7 with mindspore-lite 2.0.0; skips, and says so, where there is none."""
    found = os.environ.get("LITE_PYTHON", "")
    if not found:
        pytest.skip(
            "MindSpore Lite 2.0.0 was not tried: set LITE_PYTHON to a Python 3.7 that has mindspore-lite==2.0.0"
        )
    return found


@pytest.mark.parametrize("name", ["maps", "raw", "static"])
def test_the_real_lite_gives_our_numbers(tmp_path, forms, name):
    """The ONNX through Lite's converter: the same numbers to 1e-3, boxes in pixels to 1e-2."""
    python, path = lite_python(), forms[name]
    images = np.random.default_rng(2).normal(0, 1, (1, 3, 64, 96)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    command = [python, LITE_WORKER, path, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(list(map(str, command)), check=True, cwd=tmp_path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "found.npz") as found:
        assert bool(found["views"]), "Lite's results are no views any more: is the copy still needed?"
        for index, expected in enumerate(session.run(None, {"images": images})):
            tolerance = 1e-2 if expected.shape[1:] == (6,) else 1e-3
            np.testing.assert_allclose(found[f"output{index}"], expected, rtol=1e-3, atol=tolerance)
