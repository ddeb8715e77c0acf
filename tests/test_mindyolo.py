"""MindYOLO's evaluation, schedule and loss under its recipe's options, against what its own code computed.

The fixtures are written by benchmarks/peers/record_mindyolo.py, by MindYOLO 0.5.0.
"""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src.config import load_config
from src.evaluation.postprocess import postprocess
from src.evaluation.session import postprocess_options
from src.letterbox import eval_resize
from src.train_setup import create_loss, create_rates

ROOT = Path(__file__).parent.parent


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
        # Its code keeps boxes that lie wholly outside of the picture, clipped to nothing.
        expected = expected[(expected[:, 2:4] > expected[:, :2]).all(1)]
        assert len(expected) > 200
        np.testing.assert_array_equal(found.classes, expected[:, 5])
        np.testing.assert_allclose(found.scores, expected[:, 4], rtol=1e-5)
        np.testing.assert_allclose(found.boxes, expected[:, :4], atol=2e-3)


def test_loss_and_its_gradients(config, fixtures):
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


@pytest.mark.parametrize(
    ("option", "published"),
    [
        ("assignment", "cell"),
        ("box_weight", "size"),
        ("ignore_scope", "stride"),
        ("padding_is_object", False),
    ],
)
def test_each_option_of_the_loss_is_needed(config, fixtures, option, published):
    golden = np.load(fixtures / "mindyolo_loss.npz")
    loss = create_loss(config.replace(labels=list("abcd"), **{option: published}))
    total, _ = loss(*(ms.Tensor(golden[f"raw{level}"]) for level in range(3)), ms.Tensor(golden["boxes"]))
    assert abs(float(total.asnumpy()) - golden["loss"]) > 1e-4 * golden["loss"]


def test_rates_are_those_of_every_step(config, fixtures):
    golden = np.load(fixtures / "mindyolo_rates.npz")
    epochs = int(golden["epochs"])
    ours = config.replace(max_epoch=epochs, t_max=epochs, warmup_epochs=int(golden["warmup"]))
    assert ours.lr == golden["lr"]
    np.testing.assert_allclose(create_rates(ours, int(golden["steps"])), golden["rates"], rtol=1e-6)
