"""Checkpoints: published names load with a full account, writes are whole or absent, bad files are named."""

import ast
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src.base.errors import UserError
from src.train.run_folder import RunFolder
from src.weights import checkpoint, loading
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.weights.loading import load_backbone, load_network
from src.yolo import YoloV4

SLIM = {
    "backbone_input_shape": (4, 8, 16, 32, 64),
    "backbone_shape": (8, 16, 32, 64, 128),
    "backbone_layers": (1, 1, 1, 1, 1),
}


def published_parameters(fixtures: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all 548 parameters of the published network."""
    lines = (fixtures / "parameters_dota16.txt").read_text().splitlines()
    return {line.split("\t")[0]: ast.literal_eval(line.split("\t")[1]) for line in lines}


def write_ckpt(path: Path, values: dict[str, np.ndarray]) -> Path:
    ms.save_checkpoint(
        [{"name": name, "data": ms.Tensor(value)} for name, value in values.items()], str(path)
    )
    return path


def slim_network(classes: int = 3) -> YoloV4:
    return YoloV4(classes, **SLIM)


def slim_values(network) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {p.name: rng.normal(size=p.shape).astype(np.float32) for p in network.get_parameters()}


def test_published_checkpoint_of_548_names(fixtures, tmp_path):
    shapes = published_parameters(fixtures)
    assert len(shapes) == 548
    values = {
        name: np.full(shape, index % 97, np.float32) for index, (name, shape) in enumerate(shapes.items())
    }
    path = write_ckpt(tmp_path / "published.ckpt", values)
    network = YoloV4(16)
    report = load_network(network, path)
    assert len(report.matched) == 541
    assert len(report.unused_branch) == 7
    assert set(report.matched) | set(report.unused_branch) == set(shapes)
    assert not (report.other or report.optimizer or report.filtered)
    assert "541 parameters matched" in str(report) and "7 of the published code's unused branch" in str(
        report
    )
    for parameter in network.get_parameters():
        assert np.array_equal(parameter.asnumpy(), values[parameter.name])
    # Ours loads into the published naming again: each of our names is there, with its shape.
    save_checkpoint(network, tmp_path / "ours.ckpt")
    ours, _ = read_checkpoint(tmp_path / "ours.ckpt")
    assert {name: value.shape for name, value in ours.items()} == {
        name: shape for name, shape in shapes.items() if not name.startswith(loading.UNUSED_BRANCH)
    }


def test_prefix_and_optimizer_slots(tmp_path):
    network = slim_network()
    values = slim_values(network)
    stored = {f"yolo_network.{name}": value for name, value in values.items()}
    stored |= {f"moments.{name}": value for name, value in values.items()}
    stored |= {"learning_rate": np.float32(0.1), "momentum": np.float32(0.9), "global_step": np.int32([5])}
    report = load_network(network, write_ckpt(tmp_path / "wrapped.ckpt", stored))
    assert len(report.matched) == len(values)
    assert len(report.optimizer) == len(values) + 3
    for parameter in network.get_parameters():
        assert np.array_equal(parameter.asnumpy(), values[parameter.name])


@pytest.mark.parametrize("prefix", ["", "backbone.", "network.", "feature_map.", "feature_map.backbone."])
def test_backbone_checkpoint(tmp_path, prefix):
    network = slim_network()
    values = {
        name.removeprefix(loading.BACKBONE): value
        for name, value in slim_values(network).items()
        if name.startswith(loading.BACKBONE)
    }
    stored = {prefix + name: value for name, value in values.items()}
    stored["head.fc.weight"] = np.zeros((10, 5), np.float32)
    neck_before = network.feature_map.conv1[0].weight.asnumpy().copy()
    report = load_backbone(network, write_ckpt(tmp_path / "backbone.ckpt", stored))
    assert len(report.matched) == len(values)
    assert report.other == ["head.fc.weight"]
    assert np.array_equal(network.feature_map.backbone.conv0[0].weight.asnumpy(), values["conv0.0.weight"])
    assert np.array_equal(network.feature_map.conv1[0].weight.asnumpy(), neck_before)


def test_backbone_of_a_whole_network(tmp_path):
    """The neck's conv1 is not taken for the backbone's."""
    values = slim_values(slim_network(5))
    network = slim_network(3)
    report = load_backbone(network, write_ckpt(tmp_path / "whole.ckpt", values))
    wanted = [name for name in values if name.startswith(loading.BACKBONE)]
    assert sorted(report.matched) == sorted(wanted)
    assert len(report.other) == len(values) - len(wanted)
    name = "feature_map.backbone.conv1.0.weight"
    assert np.array_equal(network.feature_map.backbone.conv1[0].weight.asnumpy(), values[name])


def test_wrong_shape_and_missing_name_are_refused_by_name(tmp_path):
    network = slim_network()
    values = slim_values(network)
    name = "feature_map.backbone.conv0.0.weight"
    with pytest.raises(UserError, match=r"feature_map\.backbone\.conv0\.0\.weight has shape \(1, 2\)"):
        load_network(network, write_ckpt(tmp_path / "s.ckpt", {**values, name: np.zeros((1, 2), np.float32)}))
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    del values[name]
    with pytest.raises(UserError, match=r"first feature_map\.backbone\.conv0\.0\.weight"):
        load_network(network, write_ckpt(tmp_path / "m.ckpt", values))
    for parameter in network.get_parameters():  # a refused load leaves the network as it was
        assert np.array_equal(parameter.asnumpy(), before[parameter.name])


def test_transfer_to_other_classes(tmp_path):
    path = write_ckpt(tmp_path / "five.ckpt", slim_values(slim_network(5)))
    heads = tuple(f"feature_map.backblock{i}.conv6.{part}" for i in (1, 2, 3) for part in ("weight", "bias"))
    network = slim_network(3)
    with pytest.raises(UserError, match="transfer_train"):
        load_network(network, path)
    report = load_network(network, path, skip=heads)
    assert sorted(report.filtered) == sorted(heads)
    with pytest.raises(UserError) as caught:
        load_network(network, path, skip=heads[:3])
    assert "and 2 more do not fit; for a transfer to other classes add to checkpoint_filter_list: " in str(
        caught.value
    )
    assert all(name in str(caught.value) for name in heads[3:]) and heads[0] not in str(caught.value)
    with pytest.raises(
        UserError, match=r"no parameter 'feature_map\.backblock1\.conv6\.wieght'; did you mean .*weight"
    ):
        load_network(network, path, skip=("feature_map.backblock1.conv6.wieght",))


def test_transfer_from_a_checkpoint_without_class_layers(tmp_path):
    """Of a backbone and neck alone: the class layers start anew where they are filtered."""
    network = slim_network(3)
    values = slim_values(network)
    heads = tuple(name for name in values if ".conv6." in name and "backblock" in name)
    path = write_ckpt(tmp_path / "neck.ckpt", {name: v for name, v in values.items() if name not in heads})
    with pytest.raises(UserError, match=r"6 of .* are not in it.* or transfer_train=True"):
        load_network(network, path)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}
    report = load_network(network, path, skip=heads)
    assert len(report.matched) == len(values) - 6
    for parameter in network.get_parameters():
        expected = before if parameter.name in heads else values
        assert np.array_equal(parameter.asnumpy(), expected[parameter.name])


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoint(tmp_path, keep):
    path = write_ckpt(tmp_path / "whole.ckpt", slim_values(slim_network()))
    data = path.read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"short\.ckpt"):
        load_network(slim_network(), short)


def test_text_file_is_no_checkpoint(tmp_path):
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(UserError, match="not a readable MindSpore checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    with pytest.raises(UserError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.ckpt")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    network = slim_network()
    target = tmp_path / "0-1_10.ckpt"
    save_checkpoint(network, target, {"step": 10})
    before = target.read_bytes()

    def half_written(_, path, **__):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.ms, "save_checkpoint", half_written)
    with pytest.raises(UserError, match="No space left on device"):
        save_checkpoint(network, target, {"step": 20})
    assert target.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["0-1_10.ckpt"]


def test_state_travels_in_the_file(tmp_path):
    save_checkpoint(slim_network(), tmp_path / "a.ckpt", {"step": 12, "best_map": 0.25})
    values, state = read_checkpoint(tmp_path / "a.ckpt")
    assert state == {"step": 12, "best_map": 0.25}
    assert checkpoint.STATE_KEY not in values


def test_newest_are_kept_by_step_not_by_name(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    for step in (9, 10, 100, 20):
        folder.step_checkpoint(1, step).touch()
    folder.best.touch()
    folder.prune(keep=2)
    assert sorted(file.name for file in (tmp_path / "ckpt_0").iterdir()) == [
        "0-1_100.ckpt",
        "0-1_20.ckpt",
        "best_map.ckpt",
    ]
    assert folder.step_checkpoints()[-1].name == "0-1_100.ckpt"
