"""Exported files against the network they come from: MINDIR, ONNX, folded, raw, end to end."""

import json
import subprocess
import sys
from dataclasses import replace

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
from mindspore import nn

from src.base.errors import UserError
from src.config import load_config
from src.detect.backends import open_model
from src.detect.postprocess import PostprocessOptions, postprocess, postprocess_options
from src.detect.settings import ModelSettings, read_settings
from src.export.export import export_model, runtime_options
from src.export.fold import fold_batch_norm
from src.export.onnx_postprocess import add_postprocessing
from src.layers.batch_norm import BatchNorm
from src.transforms import ResizeGeometry
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests.tiny import OPTIONS

CLASSES = "ship,plane,harbor"
NETWORK = [*OPTIONS, "--testing_shape=", "--test_img_shape=96,128", f"--labels={CLASSES}"]


def options(*words: str):
    return load_config([*NETWORK, *words])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny network with weights and statistics that are far from a fresh network's, and many detections."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = build_network(options())
    rng = np.random.default_rng(0)
    for parameter in network.get_parameters():
        shape = parameter.shape
        if parameter.name.endswith(("gamma", "moving_variance")):
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) == 4:
            value = rng.normal(0, np.sqrt(1.5 / np.prod(shape[1:])), shape)
        else:
            value = rng.normal(0, 0.3, shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    path = tmp_path_factory.mktemp("export") / "tiny.ckpt"
    save_checkpoint(network, path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 3, 96, 128), np.uint8)


@pytest.fixture(scope="module")
def reference(checkpoint, images):
    """Decoded maps of the network in memory."""
    backend, _ = open_model(options(f"--pretrained={checkpoint}"))
    return backend.predict(images)


def exported(checkpoint, folder, file_format, *words):
    return export_model(
        options(
            f"--ckpt_file={checkpoint}", f"--file_name={folder}/model", f"--file_format={file_format}", *words
        )
    )


def assert_same_boxes(table, expected):
    """Rows x1 y1 x2 y2 score class are the `Detections`; those of equal score may be in another order."""
    rows = np.column_stack([expected.boxes, expected.scores, expected.classes])
    ordered = [part[np.lexsort(np.round(part, 1).T)] for part in (table, rows)]
    np.testing.assert_allclose(ordered[0], ordered[1], atol=2e-3)


def assert_close(maps, reference):
    assert len(maps) == 3
    for ours, expected in zip(maps, reference):
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--fold_batch_norm=False", "--batch_size=2"],
        ["--keep_detect=False", "--batch_size=3"],
        ["--export_input=uint8"],
    ],
)
def test_exports_give_the_networks_numbers(tmp_path, checkpoint, images, reference, file_format, words):
    """Five images whatever the file's batch size; the classes come from the file."""
    target = exported(checkpoint, tmp_path, file_format, *words)
    assert target.suffix == f".{file_format.lower()}" and not list(tmp_path.glob(".exporting*"))
    backend, config = open_model(load_config([*OPTIONS[:2], f"--pretrained={target}"]))
    assert config.labels == CLASSES.split(",") and config.eval_input_hw == (96, 128)
    assert_close(backend.predict(images), reference)
    assert_close(backend.predict(images[3:4]), [level[3:4] for level in reference])


def test_onnx_says_what_ascends_tools_need(tmp_path, checkpoint):
    """One opset of 11 to 13, an interpolation that is written out; a static file has no loop and one shape."""
    for words in ([], ["--end_to_end=1"], ["--end_to_end=1", "--end_to_end_form=static"]):
        model = onnx.load(str(exported(checkpoint, tmp_path, "ONNX", *words)))
        (opset,) = model.opset_import
        assert opset.domain == "" and 11 <= opset.version <= 13
        resizes = [node for node in model.graph.node if node.op_type == "Resize"]
        modes = [
            {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}["mode"] for node in resizes
        ]
        assert modes == [b"nearest"] * 2
    assert not {node.op_type for node in model.graph.node} & {
        "Loop",
        "If",
        "NonZero",
        "Compress",
        "NonMaxSuppression",
    }
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = [value.type.tensor_type.shape.dim for value in [*inferred.value_info, *inferred.output]]
    assert len(shapes) > 400 and all(dim.HasField("dim_value") for dims in shapes for dim in dims)


def test_static_suppression_is_the_dynamic_one_in_a_crowd():
    """Crowded boxes, and a chain in which every box is dropped by the one before it, up to its documented length."""
    classes, side = 2, 1024
    settings = replace(ModelSettings.from_config(options()), input_hw=(side, side), class_names=("a", "b"))
    rng = np.random.default_rng(5)
    rows = np.concatenate([rng.uniform(0.3, 0.5, (2000, 2)), rng.uniform(0.02, 0.2, (2000, 2)), np.ones((2000, 1)),
                           rng.uniform(0.1, 1, (2000, classes))], axis=1)  # fmt: skip
    length = 20
    chain = np.tile([0.3, 0.5, 0.1, 0.1, 1, 0, 0], (length, 1))
    chain[:, 0] += 0.02 * np.arange(length)  # the next one over 0.4, the one after it below
    chain[:, 5] = np.linspace(0.9, 0.5, length)
    for case, nms, depth in ((rows, 0.6, None), (rows, 0.3, None), (chain, 0.6, length)):
        cells = np.zeros((1, 1, 700, 3, 5 + classes), np.float32)
        cells.reshape(-1, 5 + classes)[: len(case)] = case
        ours = PostprocessOptions(
            score_threshold=0.05, nms_threshold=nms, max_detections=500, max_candidates=700
        )
        expected = postprocess([cells[0]], (side, side), ours)
        for static in (False, True):
            found = run_postprocessing(cells, ours, settings, static=static)
            assert_same_boxes(found, expected)
        if depth:
            assert len(found) == depth // 2


def run_postprocessing(cells, ours, settings, *, static):
    """Rows of the post-processing alone, behind a graph that hands three maps through."""
    maps = [cells, np.zeros_like(cells[:, :, :1]), np.zeros_like(cells[:, :, :1])]
    values = [onnx.helper.make_tensor_value_info(f"in{i}", 1, part.shape) for i, part in enumerate(maps)]
    outputs = [onnx.helper.make_tensor_value_info(f"out{i}", 1, part.shape) for i, part in enumerate(maps)]
    nodes = [onnx.helper.make_node("Identity", [f"in{i}"], [f"out{i}"]) for i in range(3)]
    graph = onnx.helper.make_graph(nodes, "maps", values, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=4)
    model = add_postprocessing(model, ours, settings, ours.max_candidates, static=static)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, *count = session.run(None, {f"in{i}": part for i, part in enumerate(maps)})
    return boxes[: int(count[0][0])] if static else boxes


@pytest.mark.parametrize("export_for,guarded", [("Ascend", False), ("CPU", True), ("auto", True)])
def test_mish_for_ascend_is_one_operator(tmp_path, checkpoint, images, reference, export_for, guarded):
    """No comparison and no selection around Mish, which older versions of Lite do not know; the same numbers here."""
    target = exported(checkpoint, tmp_path, "MINDIR", f"--export_for={export_for}")
    stored = target.read_bytes()
    assert b"Mish" in stored
    assert (b"Less" in stored) == (b"Select" in stored or b"Where" in stored) == guarded
    assert_close(
        open_model(load_config([*OPTIONS[:2], f"--pretrained={target}"]))[0].predict(images), reference
    )


@pytest.mark.parametrize("activation", ["silu", "mish_composed", "leaky"])
def test_activations_export_to_onnx(tmp_path, images, activation):
    words = [f"--backbone_activation={activation}", f"--neck_activation={activation}"]
    network = build_network(options(*words))
    save_checkpoint(network, tmp_path / "net.ckpt")
    target = exported(tmp_path / "net.ckpt", tmp_path, "ONNX", *words)
    expected = open_model(options(f"--pretrained={tmp_path / 'net.ckpt'}", *words))[0].predict(images)
    # MindSpore's own tanh on the CPU, not ONNX Runtime's, is off for mish_composed.
    tolerance = 1e-3 if activation == "mish_composed" else 1e-4
    for ours, reference in zip(open_model(options(f"--pretrained={target}"))[0].predict(images), expected):
        np.testing.assert_allclose(ours, reference, rtol=tolerance, atol=1e-5)


def test_folding_is_the_formula():
    """y = gamma (w x - mean) / sqrt(var + eps) + beta, in float64, and no BatchNorm is left."""
    network = build_network(options())
    first = network.feature_map.backbone.conv0
    rng = np.random.default_rng(0)
    norm = first[1]
    for parameter in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance):
        parameter.set_data(ms.Tensor(rng.uniform(0.5, 2, parameter.shape).astype(np.float32)))
    weight = first[0].weight.asnumpy().astype(np.float64)
    gamma, beta, mean, variance = (
        p.asnumpy().astype(np.float64)
        for p in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    count = sum(isinstance(cell, BatchNorm) for _, cell in network.cells_and_names())
    assert fold_batch_norm(network) == count > 50
    assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in network.cells_and_names())
    scale = gamma / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(first[0].weight.asnumpy(), weight * scale[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(first[0].bias.asnumpy(), beta - mean * scale, rtol=1e-5, atol=1e-6)


CLIENT = """
import json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
images = np.load(sys.argv[2])
found = []
for image in images:
    boxes, *count = session.run(None, {"images": image[None]})
    assert not count or not boxes[int(count[0][0]):].any()
    found.append(boxes[:int(count[0][0])] if count else boxes)
assert "mindspore" not in sys.modules and not any(name.split(".")[0] == "src" for name in sys.modules)
np.savez(sys.argv[3], *found)
"""


@pytest.mark.parametrize("form", ["dynamic", "static"])
@pytest.mark.parametrize("nms_type,threshold", [("diou", 0.02), ("iou", 0.02), ("diou", 0.99)])
def test_end_to_end_onnx_in_onnx_runtime_alone(
    tmp_path, checkpoint, images, reference, nms_type, threshold, form
):
    """Another process with ONNX Runtime and nothing of ours gets the boxes of our post-processing."""
    words = [
        "--end_to_end=1", "--export_input=uint8", f"--nms_type={nms_type}", "--nms_thresh=0.4",
        f"--eval_ignore_threshold={threshold}", "--export_top_k=300", "--max_detections=150",
        f"--end_to_end_form={form}",
    ]  # fmt: skip
    target = exported(checkpoint, tmp_path, "ONNX", *words)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", CLIENT, target, tmp_path / "images.npy", tmp_path / "found.npz"]
    subprocess.run(command, check=True, cwd=tmp_path)
    ours = PostprocessOptions(
        score_threshold=threshold,
        nms_threshold=0.4,
        nms_type=nms_type,
        max_detections=150,
        max_candidates=300,
    )
    seen = 0
    with np.load(tmp_path / "found.npz") as found:
        for index in range(len(images)):
            expected = postprocess([level[index] for level in reference], (128, 96), ours)
            table = found[f"arr_{index}"]
            assert table.shape == (len(expected), 6)
            assert_same_boxes(table, expected)
            seen += len(table)
    assert seen > 200 or threshold == 0.99
    if (
        threshold < 0.5
    ):  # the same file behind `detect` gives the same boxes, whatever the default threshold drops
        backend, config = open_model(load_config([*OPTIONS[:2], f"--pretrained={target}"]))
        assert postprocess_options(config).nms_threshold == 1
        found = backend.detect(images[:1])
        (again,) = found.detections([(128, 96)], [ResizeGeometry(1, 1)], postprocess_options(config))
        expected = postprocess([level[0] for level in reference], (128, 96), ours)
        assert_same_boxes(np.column_stack([again.boxes, again.scores, again.classes]), expected)


def test_settings_travel(tmp_path, checkpoint):
    target = exported(
        checkpoint,
        tmp_path,
        "MINDIR",
        "--letterbox=1",
        "--letterbox_enlarge=0",
        "--image_mean=0,0,0",
        "--tile_size=600",
    )
    settings = read_settings(target)
    assert settings.class_names == tuple(CLASSES.split(",")) and settings.letterbox
    assert not settings.letterbox_enlarge
    assert settings.image_mean == (0, 0, 0) and settings.tile_size == 600 and settings.batch_size == 1
    assert ModelSettings.from_yaml(settings.to_yaml(), "here") == settings
    _, config = open_model(load_config([*OPTIONS[:2], f"--pretrained={target}"]))
    assert config.letterbox and not config.letterbox_enlarge
    assert config.tile_size == 600 and config.image_mean == [0, 0, 0]


@pytest.mark.parametrize(
    "words,named",
    [
        (["--file_format=AIR"], "AIR is written on Ascend alone"),
        (["--file_format=AIR", "--device_target=Ascend", "--jit_level=O0"], "AIR is written at O2 alone"),
        (["--end_to_end=1"], "file_format: end_to_end is for ONNX and OM alone"),
        (["--file_format=OM"], "soc_version: '' is no Ascend chip"),
        (
            ["--file_format=OM", "--soc_version=Ascend310P3", "--end_to_end=1"],
            "end_to_end_form: an OM takes fixed",
        ),
        (["--end_to_end=1", "--file_format=ONNX", "--batch_size=2"], "batch_size: end_to_end"),
        (["--end_to_end=1", "--file_format=ONNX", "--keep_detect=0"], "keep_detect: end_to_end"),
        (["--end_to_end=1", "--file_format=ONNX", "--published_overlap=1"], "published_overlap: end_to_end"),
        (["--file_name=/no/such/folder/model"], "file_name: /no/such/folder is no folder"),
        (["--ckpt_file="], "ckpt_file: not set"),
        (["--labels=ship"], "feature_map.backblock1.conv6"),
    ],
)
def test_exports_that_are_refused(tmp_path, checkpoint, words, named):
    with pytest.raises(UserError, match=named):
        export_model(options(f"--ckpt_file={checkpoint}", f"--file_name={tmp_path}/model", *words))
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_refused(tmp_path, checkpoint):
    target = exported(checkpoint, tmp_path, "ONNX", "--keep_detect=0")
    with pytest.raises(UserError, match=r"labels: 2 classes are set .*the model has 3"):
        open_model(load_config([*OPTIONS, f"--pretrained={target}"]))
    for name, named in (("none.onnx", "no such model"), ("model.h5", "ends in .ckpt, .mindir, .onnx")):
        with pytest.raises(UserError, match=named):
            open_model(options(f"--pretrained={tmp_path / name}"))
    for ending in ("onnx", "mindir"):
        damaged = tmp_path / f"damaged.{ending}"
        damaged.write_bytes(target.read_bytes()[:5000])
        with pytest.raises(UserError, match=f"damaged.{ending}: not a readable"):
            open_model(options(f"--pretrained={damaged}"))


def test_a_mindir_without_settings_takes_the_options(tmp_path, checkpoint, images, reference):
    """As published ones are; wrong classes and a wrong shape are named."""
    target = exported(checkpoint, tmp_path, "MINDIR", "--keep_detect=0", "--batch_size=2")
    (tmp_path / "model.mindir.yaml").unlink()
    backend, _ = open_model(options(f"--pretrained={target}", "--batch_size=2"))
    assert_close(backend.predict(images), reference)
    backend, _ = open_model(options(f"--pretrained={target}", "--batch_size=2", "--labels=ship"))
    with pytest.raises(UserError, match="outputs are of 3 classes, labels names 1"):
        backend.predict(images)
    backend, _ = open_model(options(f"--pretrained={target}", "--batch_size=2"))
    with pytest.raises(UserError, match="does not run on float32 input 2x3x64x64"):
        backend.predict(np.zeros((2, 3, 64, 64), np.uint8))


def test_export_py_as_published(tmp_path, checkpoint):
    """`python export.py --ckpt_file ... --file_name ... --file_format ... --keep_detect ...`."""
    (tmp_path / "net.yaml").write_text(json.dumps({"labels": CLASSES.split(","), "device_target": "CPU",
        "backbone_input_shape": [4, 8, 8, 16, 16], "backbone_shape": [8, 8, 16, 16, 32],
        "backbone_layers": [1, 1, 1, 1, 1]}))  # fmt: skip
    command = [
        sys.executable, "export.py", "--config_path", tmp_path / "net.yaml", "--ckpt_file", checkpoint,
        "--file_name", tmp_path / "yolov4", "--file_format", "MINDIR", "--keep_detect", "True",
        "--testing_shape", "64", "--batch_size", "2",
    ]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "input 2x3x64x64 float32, outputs decoded, 3 classes" in done.stdout
    assert read_settings(tmp_path / "yolov4.mindir").input_hw == (64, 64)
    refused = subprocess.run(
        [sys.executable, "export.py", "--file_format=AIR", f"--ckpt_file={checkpoint}", "--device_target=CPU"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "AIR" in refused.stderr


def test_air_is_written_at_o2_and_its_failure_blames_no_disk(checkpoint, tmp_path, monkeypatch):
    air = options("--file_format=AIR", "--device_target=Ascend", "--is_distributed=1")
    assert runtime_options(air).jit_level == "O2" and not runtime_options(air).is_distributed
    assert runtime_options(air.replace(file_format="MINDIR")).jit_level == ""

    def fail(*args, **kwargs):
        raise RuntimeError("Only support export file in 'AIR' format with Ascend backend.")

    monkeypatch.setattr(ms, "export", fail)
    with pytest.raises(UserError, match="GE alone") as caught:
        export_model(air.replace(ckpt_file=str(checkpoint), file_name=str(tmp_path / "model")))
    assert "disk" not in str(caught.value)
