"""MindYOLO's evaluation, schedule and loss under its recipe's options, against what its own code computed.

The fixtures are written by benchmarks/peers/record_mindyolo.py, by MindYOLO 0.5.0.
"""

import ast

import mindspore as ms
import numpy as np
import pytest

from src.config import load_config
from src.detect.letterbox import eval_resize
from src.detect.postprocess import postprocess, postprocess_options
from src.train.train_setup import create_forward, create_loss, create_rates
from src.weights.loading import load_network
from src.weights.mindyolo import our_name
from src.yolo import build_network
from tests import ROOT
from tests.golden import golden_values


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.fixture(scope="module")
def config():
    """Options of MindYOLO's YOLOv4."""
    return load_config(["--config", str(ROOT / "configs" / "yolov4" / "yolov4.yaml")])


def test_letterbox_feeds_the_same_pixels(config, fixtures):
    golden = np.load(fixtures / "mindyolo_eval.npz")
    side, resize = int(golden["side"]), eval_resize(config)
    numbers = [key.removeprefix("image:") for key in golden if key.startswith("image:")]
    assert len(numbers) == 5
    for number in numbers:
        shown, _ = resize(golden[f"image:{number}"], (side, side))
        np.testing.assert_array_equal(shown.transpose(2, 0, 1), golden[f"input:{number}"])


def test_post_processing_gives_the_same_detections(config, fixtures):
    golden = np.load(fixtures / "mindyolo_eval.npz")
    side, options = int(golden["side"]), postprocess_options(config)
    for number, predictions in enumerate(golden["predictions"]):
        image, expected = golden[f"image:{number}"], golden[f"detections:{number}"]
        _, geometry = eval_resize(config)(image, (side, side))
        maps = predictions.copy()
        maps[:, :4] /= side
        found = postprocess([maps], image.shape[1::-1], options, geometry, (side, side))
        # Its code keeps boxes that lie wholly outside of the image, clipped to nothing.
        expected = expected[(expected[:, 2:4] > expected[:, :2]).all(1)]
        assert len(expected) > 200
        np.testing.assert_array_equal(found.classes, expected[:, 5])
        np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, expected[:, :4], atol=2e-3)


def test_loss_and_its_gradients(config, fixtures):
    """All four options take part: with the published value of any of them the loss is off by 3e-4 or more."""
    golden = np.load(fixtures / "mindyolo_loss.npz")
    loss = create_loss(config.replace(labels=list("abcd")))
    raw = [ms.Tensor(golden[f"raw{level}"]) for level in range(3)]

    (total, parts), gradients = ms.value_and_grad(loss, (0, 1, 2), has_aux=True)(
        *raw, ms.Tensor(golden["boxes"])
    )
    np.testing.assert_allclose(total.asnumpy(), golden["loss"], rtol=1e-5)
    np.testing.assert_allclose(parts.asnumpy().sum(0), golden["parts"], rtol=1e-5)
    for level, gradient in enumerate(gradients):
        expected = golden[f"grad{level}"]
        np.testing.assert_allclose(
            gradient.asnumpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.slow
def test_a_training_step_of_the_whole_network(config, fixtures):
    """Loss to 1e-4, gradients of the heads to 1e-3, BatchNorm statistics after the step."""
    golden = np.load(fixtures / "mindyolo_step.npz")
    lines = (fixtures / "parameters_mindyolo_coco80.txt").read_text().splitlines()
    shapes = {name: ast.literal_eval(shape) for name, shape, *_ in (line.split("\t") for line in lines)}
    network = build_network(config)
    values = {name: golden_values(name, shape) for name, shape in shapes.items()}
    load_network(network, "mindyolo.ckpt", values=values)
    forward = create_forward(config, network).set_train()
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    expected = {key.removeprefix("grad:"): golden[key] for key in golden if key.startswith("grad:")}
    assert len(expected) == 6
    heads = ms.ParameterTuple([parameters[our_name(name)] for name in expected])
    images, boxes = ms.Tensor(golden["images"]), ms.Tensor(golden["boxes"])
    (total, parts), gradients = ms.value_and_grad(forward, None, heads, has_aux=True)(images, boxes)
    np.testing.assert_allclose(total.asnumpy(), golden["loss"], rtol=1e-4)
    np.testing.assert_allclose(parts.asnumpy().sum(0), golden["parts"], rtol=1e-4)
    for gradient, wanted in zip(gradients, expected.values()):
        found = gradient.asnumpy()
        found = found[:, ::64] if found.ndim == 4 else found
        assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
        assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()
    statistics = [key for key in golden if key.startswith("after:")]
    assert len(statistics) == 6
    for key in statistics:
        found = parameters[our_name(key.removeprefix("after:"))].asnumpy()
        np.testing.assert_allclose(found, golden[key], rtol=1e-4, atol=1e-5)


def test_rates_are_those_of_every_step(config, fixtures):
    golden = np.load(fixtures / "mindyolo_rates.npz")
    epochs = int(golden["epochs"])
    ours = config.replace(max_epoch=epochs, t_max=epochs, warmup_epochs=int(golden["warmup"]))
    assert ours.lr == golden["lr"]
    np.testing.assert_allclose(create_rates(ours, int(golden["steps"])), golden["rates"], rtol=1e-6)
