"""Transfer learning as published: a network of sixteen classes becomes one of three, its class layers anew."""

from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.config import load_config
from src.datasets.dota_labels import CLASSES_V1_5
from src.detect.backends import open_model
from src.runtime.device import Runtime
from src.train.run import start_run
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint
from tests.test_trainer import run
from tests.tiny import OPTIONS, tiny_config

CLASS_LAYERS = {
    f"feature_map.backblock{level}.conv6.{part}" for level in (1, 2, 3) for part in ("weight", "bias")
}
# A frozen backbone works by its moving statistics, which four steps do not bring far: activations grow from layer to
# layer, and MindSpore's Mish on the CPU is not a number above 44.
LEAKY = ("--backbone_activation=leaky",)
RECIPE = """\
labels: [ship, plane, small buoy]
transfer_train: True
pretrained_checkpoint: {start}
"""


@pytest.fixture(scope="module")
def sixteen(tiles, tmp_path_factory) -> Path:
    """A trained checkpoint of DOTA's sixteen classes."""
    words = (f"--labels={','.join(CLASSES_V1_5)}", *LEAKY)
    folder, _ = run(tiny_config(tiles, tmp_path_factory.mktemp("sixteen"), *words))
    return folder / "ckpt_0" / "0-2_6.ckpt"


def recipe(tmp_path, start, more="") -> str:
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.format(start=start) + more)
    return f"--config={path}"


def own_config(tiles, tmp_path, word, *words):
    options = [option for option in OPTIONS if not option.startswith("--labels")]
    places = [f"--data_dir={tiles}", f"--ckpt_path={tmp_path}", f"--log_path={tmp_path}"]
    return load_config([*options, *LEAKY, *places, word, *words])


def values_of(network):
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


def test_from_sixteen_classes_to_three(tiles, sixteen, tmp_path):
    theirs = read_checkpoint(sixteen)[0]
    assert all(theirs[name].shape[0] == 3 * (5 + 16) for name in CLASS_LAYERS)
    config = own_config(tiles, tmp_path, recipe(tmp_path, sixteen), "--seed=7")
    assert config.filter_weight is True
    started = start_run(config, Runtime())
    own = values_of(started.parts.network)
    nothing_loaded = values_of(
        start_run(
            config.replace(pretrained_checkpoint="", transfer_checkpoint_url=""), Runtime()
        ).parts.network
    )
    for name, value in own.items():
        expected = nothing_loaded if name in CLASS_LAYERS else theirs
        assert np.array_equal(value, expected[name]), name
    assert set(own) > CLASS_LAYERS and own["feature_map.backblock2.conv6.weight"].shape[0] == 3 * (5 + 3)
    log = next(started.folder.path.glob("*.log")).read_text()
    assert f"{len(own) - 6} parameters matched" in log
    assert "6 filtered, they start anew: " in log and all(name in log for name in CLASS_LAYERS)

    fit(started)
    written = max(
        (started.folder.path / "ckpt_0").glob("*.ckpt"), key=lambda path: int(path.stem.split("_")[1])
    )
    trained = read_checkpoint(written)[0]
    moved = [name for name in own if not np.array_equal(own[name], trained[name])]
    assert set(moved) >= CLASS_LAYERS and len(moved) > len(own) / 2  # all of it learns, unless frozen
    _, opened = open_model(load_config([f"--pretrained={written}", "--device_target=CPU"]))
    assert opened.labels == ["ship", "plane", "small buoy"]


def test_box_and_objectness_rows_may_be_kept(tiles, sixteen, tmp_path):
    """Of each anchor's rows the first five come from the checkpoint, the classes' start anew."""
    theirs = read_checkpoint(sixteen)[0]
    config = own_config(tiles, tmp_path, recipe(tmp_path, sixteen), "--seed=7", "--transfer_boxes=1")
    started = start_run(config, Runtime())
    anew = values_of(start_run(config.replace(transfer_boxes=False), Runtime()).parts.network)
    for name, value in values_of(started.parts.network).items():
        if name not in CLASS_LAYERS:
            assert np.array_equal(value, theirs[name]), name
            continue
        for anchor in range(3):
            rows, their_rows = (
                value[anchor * 8 : anchor * 8 + 8],
                theirs[name][anchor * 21 : anchor * 21 + 21],
            )
            assert np.array_equal(rows[:5], their_rows[:5]), name
            assert np.array_equal(rows[5:], anew[name][anchor * 8 + 5 : anchor * 8 + 8]), name
    assert (
        "rows of box and objectness of 6 filtered layers taken"
        in next(started.folder.path.glob("*.log")).read_text()
    )


def test_with_a_frozen_backbone_the_rest_learns(tiles, sixteen, tmp_path):
    theirs = read_checkpoint(sixteen)[0]
    words = ("--freeze=feature_map.backbone", "--max_steps=2")
    folder, _ = run(own_config(tiles, tmp_path, recipe(tmp_path, sixteen), *words))
    trained = read_checkpoint(next((folder / "ckpt_0").glob("*.ckpt")))[0]
    backbone = [name for name in theirs if name.startswith("feature_map.backbone.")]
    assert backbone and all(np.array_equal(trained[name], theirs[name]) for name in backbone)
    assert not np.array_equal(
        trained["feature_map.backblock3.conv5.0.weight"], theirs["feature_map.backblock3.conv5.0.weight"]
    )


def test_without_transfer_the_error_says_so(tiles, sixteen, tmp_path):
    word = recipe(tmp_path, sixteen)
    with pytest.raises(
        UserError, match=r"conv6\.weight has shape \(63, .*transfer_train=True for other classes"
    ):
        start_run(own_config(tiles, tmp_path, word, "--transfer_train=0"), Runtime())


def test_a_filter_list_that_misses_a_layer_says_which(tiles, sixteen, tmp_path):
    listed = sorted(
        CLASS_LAYERS - {"feature_map.backblock2.conv6.weight", "feature_map.backblock2.conv6.bias"}
    )
    word = recipe(tmp_path, sixteen, f"checkpoint_filter_list: [{', '.join(listed)}]\n")
    with pytest.raises(UserError) as caught:
        start_run(own_config(tiles, tmp_path, word), Runtime())
    remedy = str(caught.value).split("add to checkpoint_filter_list: ")[1]
    word = recipe(tmp_path, sixteen, f"checkpoint_filter_list: [{', '.join(listed)}, {remedy}]\n")
    start_run(own_config(tiles, tmp_path, word), Runtime())  # what the error says is what it takes
