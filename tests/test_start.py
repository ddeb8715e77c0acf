"""What a training starts from, and the class names that a checkpoint brings with it."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import yaml

from src.base.errors import UserError
from src.config import load_config
from src.datasets.dota_labels import CLASSES_V1_5
from src.detect.backends import open_model
from src.export.export import export_model
from src.runtime.device import Runtime
from src.train.run import start_run
from src.train.start import find_start, start_options
from src.weights.carried import carried_options
from src.weights.checkpoint import save_checkpoint
from src.weights.convert import convert
from src.yolo import build_network
from tests import ROOT
from tests.file_server import Behaviour, file_server
from tests.tiny import OPTIONS, tiny_config, write_tiles

PUBLISHED_ORDER = [
    "plane",
    "baseball-diamond",
    "bridge",
    "ground-track-field",
    "small-vehicle",
    "large-vehicle",
    "ship",
    "tennis-court",
    "basketball-court",
    "storage-tank",
    "soccer-ball-field",
    "roundabout",
    "harbor",
    "swimming-pool",
    "helicopter",
    "container-crane",
]
# What this project's checkpoints had before the published order became the default.
EARLIER_ORDER = [
    "plane",
    "ship",
    "storage-tank",
    "baseball-diamond",
    "tennis-court",
    "basketball-court",
    "ground-track-field",
    "harbor",
    "bridge",
    "large-vehicle",
    "small-vehicle",
    "helicopter",
    "roundabout",
    "soccer-ball-field",
    "swimming-pool",
    "container-crane",
]
UNLABELLED = [option for option in OPTIONS if not option.startswith("--labels")]


def values_of(network):
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


def checkpoint_of(path, labels, *, named=True, only=""):
    """A checkpoint of a tiny network of these classes, as a training writes it, and its values."""
    config = load_config([*UNLABELLED, f"--labels={','.join(labels)}"])
    network = build_network(config)
    state = {
        "step": 0, "steps_per_epoch": 1, "best_map": -1.0, "best_epoch": 0,
        "options": carried_options(config),
    }  # fmt: skip
    parameters = [p for p in network.get_parameters() if p.name.startswith(only)]
    save_checkpoint(parameters, path, state if named else None)
    return path, values_of(network)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    return checkpoint_of(tmp_path_factory.mktemp("earlier") / "earlier.ckpt", EARLIER_ORDER)[0]


def opened(path, *words):
    return open_model(load_config(["--device_target=CPU", f"--pretrained={path}", *words]))[1].labels


def own_config(tiles, out, *words):
    """A tiny training with the default classes."""
    places = [f"--data_dir={tiles}", f"--ckpt_path={out}", f"--log_path={out}"]
    return load_config([*UNLABELLED, *places, *words])


def log_of(started):
    return next(started.folder.path.glob("*.log")).read_text()


# -------------------------------------------------------------------- class order


def test_the_default_order_is_that_of_the_published_checkpoint():
    assert load_config([]).labels == PUBLISHED_ORDER
    assert list(CLASSES_V1_5) == PUBLISHED_ORDER
    assert load_config([f"--config={ROOT / 'configs' / 'dota_yolov4.yaml'}"]).labels == PUBLISHED_ORDER
    assert load_config([f"--config={ROOT / 'configs' / 'quickstart.yaml'}"]).labels == PUBLISHED_ORDER


def test_a_checkpoint_of_the_earlier_order_keeps_its_names(earlier):
    """As eval.py, test.py and inference.py open it, without --labels or with its own."""
    assert sorted(EARLIER_ORDER) == sorted(PUBLISHED_ORDER) and EARLIER_ORDER != PUBLISHED_ORDER
    assert opened(earlier) == EARLIER_ORDER
    assert opened(earlier, f"--labels={','.join(EARLIER_ORDER)}") == EARLIER_ORDER


def test_an_export_of_the_earlier_order_keeps_its_names(earlier, tmp_path):
    export_model(
        load_config(
            [
                "--device_target=CPU",
                f"--ckpt_file={earlier}",
                f"--file_name={tmp_path / 'net'}",
                "--testing_shape=96",
            ]
        )
    )
    settings = yaml.safe_load((tmp_path / "net.mindir.yaml").read_text())
    assert settings["class_names"] == EARLIER_ORDER
    assert opened(tmp_path / "net.mindir") == EARLIER_ORDER


def test_a_conversion_hands_the_names_on(earlier, tmp_path):
    config = load_config(["--device_target=CPU", "--testing_shape=96"])
    convert(config, earlier, tmp_path / "net.weights")
    assert (tmp_path / "net.names").read_text().split() == EARLIER_ORDER
    convert(config, earlier, tmp_path / "again.ckpt")
    assert opened(tmp_path / "again.ckpt") == EARLIER_ORDER


def test_a_published_checkpoint_has_the_default_order(tmp_path):
    path, _ = checkpoint_of(tmp_path / "published.ckpt", PUBLISHED_ORDER, named=False)
    assert opened(path, *UNLABELLED) == PUBLISHED_ORDER


def test_another_order_than_the_checkpoints_is_refused(earlier):
    with pytest.raises(UserError, match=r"labels: baseball-diamond is class 2 .*earlier.ckpt it is class 4"):
        opened(earlier, f"--labels={','.join(PUBLISHED_ORDER)}")
    renamed = ["aeroplane", *EARLIER_ORDER[1:]]
    word = f"--labels={','.join(renamed)}"
    with pytest.raises(UserError, match=r"labels: .*was written with .*--override_checkpoint=labels"):
        opened(earlier, word)
    assert opened(earlier, word, "--override_checkpoint=labels") == renamed


@pytest.mark.parametrize("option", ["resume_yolov4", "pretrained_checkpoint"])
def test_training_takes_the_names_of_its_start(tmp_path, option):
    """Old weights under new names would train a ship's outputs on storage tanks."""
    path, _ = checkpoint_of(tmp_path / "old.ckpt", ["plane", "ship"])  # the tiles' file has ship first
    tiles = write_tiles(tmp_path / "set", train=2, val=1)
    words = (f"--{option}={path}",)
    if option == "resume_yolov4":
        with pytest.raises(
            UserError, match="lacks moments"
        ):  # the names were taken, the optimizer is missing
            start_run(own_config(tiles, tmp_path / "out", *words), Runtime())
        (written,) = (tmp_path / "out").glob("*/config.yaml")
        assert yaml.safe_load(written.read_text())["labels"] == ["plane", "ship"]
    else:
        started = start_run(own_config(tiles, tmp_path / "out", *words), Runtime())
        assert started.config.labels == ["plane", "ship"]
        assert started.parts.loader.dataset.class_names == ("plane", "ship")
        assert started.parts.loader.dataset.records[0].classes.tolist() == [1, 0, 1]
    with pytest.raises(
        UserError, match=r"labels: ship is class 1 \(command line\), in .*old.ckpt it is class 2"
    ):
        start_run(tiny_config(tiles, tmp_path / "out2", *words), Runtime())


def test_a_transfer_keeps_the_names_that_are_set(earlier, tiles, tmp_path):
    config = tiny_config(tiles, tmp_path, f"--pretrained_checkpoint={earlier}", "--transfer_train=1")
    assert start_run(config, Runtime()).config.labels == ["ship", "plane"]


# -------------------------------------------------------------------- starts


def test_train_py_takes_weight_as_its_start():
    """Elsewhere it is the checkpoint to evaluate."""
    for script, option in (("train.py", "pretrained_checkpoint"), ("eval.py", "pretrained")):
        done = subprocess.run(
            [sys.executable, ROOT / script, "--weight=some.ckpt", "--print_config"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = [line.split()[0] for line in done.stdout.splitlines() if "'some.ckpt'" in line]
        assert found == [option]


@pytest.mark.parametrize(("only", "kind"), [("", "load"), ("feature_map.backbone.", "load backbone")])
def test_a_whole_network_or_a_backbone_by_what_is_in_the_file(tiles, tmp_path, only, kind):
    path, values = checkpoint_of(tmp_path / "start.ckpt", ["ship", "plane"], only=only, named=False)
    started = start_run(tiny_config(tiles, tmp_path, f"--pretrained_checkpoint={path}"), Runtime())
    trained = values_of(started.parts.network)
    same = {name for name, value in trained.items() if np.array_equal(value, values[name])}
    assert {name for name in values if name.startswith(only)} <= same
    head = "feature_map.backblock1.conv6.weight"
    assert (head in same) == (not only)
    count = len([name for name in values if name.startswith(only)])
    assert f"INFO:{kind} {path}: {count} parameters matched" in log_of(started)
    assert "random weights" not in log_of(started)


def test_a_start_from_nothing_is_warned_of(tiles, tmp_path):
    log = log_of(start_run(tiny_config(tiles, tmp_path), Runtime()))
    assert log.count(":WARNING:training starts from random weights") == 1


def test_the_default_of_a_transfer_is_published_with_its_checksum():
    address = load_config([]).transfer_checkpoint_url
    assert address.startswith("https://download.mindspore.cn/models/") and "_coco2017_" in address
    assert len(address.partition(".ckpt#sha256=")[2]) == 64


def test_a_transfer_without_a_checkpoint_downloads_one(tiles, tmp_path):
    path, values = checkpoint_of(tmp_path / "theirs.ckpt", EARLIER_ORDER, named=False)
    content = path.read_bytes()
    with file_server(Behaviour(content)) as url:
        address = f"{url}/theirs.ckpt#sha256={hashlib.sha256(content).hexdigest()}"
        words = (
            "--transfer_train=1",
            f"--transfer_checkpoint_url={address}",
            f"--download_path={tmp_path / 'kept'}",
        )
        started = start_run(tiny_config(tiles, tmp_path / "out", *words), Runtime())
    trained = values_of(started.parts.network)
    same = [name for name, value in trained.items() if np.array_equal(value, values.get(name))]
    assert len(same) == len(trained) - 6 and "backblock1.conv6" not in "".join(same)
    assert "6 filtered, they start anew" in log_of(started)


def test_a_backbone_is_a_start_of_a_transfer_too(tiles, tmp_path):
    path, _ = checkpoint_of(tmp_path / "b.ckpt", ["ship", "plane"], only="feature_map.backbone.", named=False)
    words = (
        "--transfer_train=1",
        f"--pretrained_backbone={path}",
        "--transfer_checkpoint_url=http://127.0.0.1:9/x.ckpt",
    )
    assert "load backbone" in log_of(start_run(tiny_config(tiles, tmp_path, *words), Runtime()))


def test_a_transfer_without_a_network_says_what_to_do(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr("src.remote.download.WAITS", ())
    words = ("--transfer_train=1", "--transfer_checkpoint_url=http://127.0.0.1:9/net.ckpt")
    with pytest.raises(
        UserError, match=r"^transfer_train: .*cannot be downloaded.*--pretrained_checkpoint=FILE$"
    ) as caught:
        start_run(tiny_config(tiles, tmp_path, *words, f"--download_path={tmp_path / 'kept'}"), Runtime())
    assert "\n" not in str(caught.value)


def test_a_recipe_whose_backbone_is_missing_says_what_to_do(monkeypatch, tmp_path):
    recipe = ROOT / "configs" / "yolov4" / "yolov4.yaml"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"pretrained_backbone: yolov4_backbone\.ckpt \(.*yolov4\.yaml\): no such"
    ):
        find_start(load_config([f"--config={recipe}"]))
    assert find_start(load_config([f"--config={recipe}", "--pretrained_backbone="])) is None


CHECKPOINT, BACKBONE = "pretrained_checkpoint", "pretrained_backbone"


@pytest.mark.parametrize(
    ("in_file", "words", "order"),
    [
        (f"{CHECKPOINT}: a.ckpt", [f"--{BACKBONE}=b.ckpt"], [BACKBONE, CHECKPOINT]),
        (f"{BACKBONE}: b.ckpt", [f"--{CHECKPOINT}=a.ckpt"], [CHECKPOINT, BACKBONE]),
        (f"{BACKBONE}: b.ckpt\n{CHECKPOINT}: a.ckpt", [], [CHECKPOINT, BACKBONE]),
        ("resume: auto", [f"--{BACKBONE}=b.ckpt"], ["resume", BACKBONE]),
        (f"{CHECKPOINT}: a.ckpt", [f"--{BACKBONE}="], [CHECKPOINT]),
        ("seed: 1", [], []),
    ],
)
def test_which_of_several_starts_is_taken(tmp_path, in_file, words, order):
    path = tmp_path / "own.yaml"
    path.write_text(in_file)
    assert start_options(load_config([f"--config={path}", *words], "train")) == order


def test_a_start_that_is_passed_over_is_named(tiles, tmp_path):
    path, _ = checkpoint_of(tmp_path / "whole.ckpt", ["ship", "plane"])
    words = (f"--pretrained_checkpoint={path}", "--pretrained_backbone=none.ckpt")
    log = log_of(start_run(tiny_config(tiles, tmp_path, *words), Runtime()))
    assert "pretrained_backbone is not loaded: pretrained_checkpoint comes first" in log
