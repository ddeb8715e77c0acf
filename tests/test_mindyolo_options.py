"""MindYOLO's YAML files and command lines work as they are: values, other names, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from src.base.errors import UserError
from src.config import load_config
from tests import ROOT

FIXTURES = Path(__file__).parent / "fixtures" / "published"
FILES = json.loads((FIXTURES / "mindyolo_yolov4.json").read_text())
SCRIPTS = json.loads((FIXTURES / "mindyolo_options.json").read_text())
PROGRAMS = {
    "train.py": "train",
    "test.py": "test",
    "demo/predict.py": "inference",
    "deploy/export.py": "export",
}
# Options in which our file and theirs differ, and why.
OUR_FILE_DIFFERS = {
    "max_epoch": "300 unless --epochs says 320, as their README does",
    "t_max": "as max_epoch",
    "ms_amp_level": "theirs is O2; ours trains in float32 unless asked",
    "pretrained_checkpoint": "theirs names the backbone as any weights, and what it is is seen from the file",
    "pretrained_backbone": "ours names it as what it is",
}


@pytest.fixture
def theirs(tmp_path):
    """Their files in their folders; returns a function from path and changed documents to the file's path."""

    def write(name: str, changes: dict | None = None) -> str:
        for path, document in {**FILES, **(changes or {})}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(yaml.safe_dump(document))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["yolov4", "yolov4-silu"])
def test_their_file_and_ours_are_the_same_options(theirs, name):
    path = f"configs/yolov4/{name}.yaml"
    found = load_config([f"--config={theirs(path)}"], "train")
    ours = load_config([f"--config={ROOT / path}"], "train")
    differing = {key: (found[key], ours[key]) for key in found if found[key] != ours[key]}
    assert set(differing) == set(OUR_FILE_DIFFERS), differing
    assert found.pretrained_checkpoint == ours.pretrained_backbone
    assert (
        load_config([f"--config={theirs(path)}", "--epochs=320"], "train").max_epoch == ours.max_epoch == 320
    )


def test_each_value_of_their_files_is_an_options_value(theirs, capsys):
    """Numbers as published, not by way of our own file."""
    config = load_config([f"--config={theirs('configs/yolov4/yolov4.yaml')}"], "train")
    base, hyper = FILES["configs/coco.yaml"]["data"], FILES["configs/yolov4/hyp.scratch.yaml"]
    optimizer, loss = hyper["optimizer"], hyper["loss"]
    assert config.labels == base["names"] and config.num_classes == base["nc"]
    assert (config.data_dir, config.num_parallel_workers) == ("coco", hyper["data"]["num_parallel_workers"])
    assert config.lr == optimizer["lr_init"] and config.momentum == optimizer["momentum"]
    assert (
        config.weight_decay == optimizer["gp_weight_decay"] and config.loss_scale == optimizer["loss_scale"]
    )
    assert config.warmup_epochs == optimizer["warmup_epochs"] and config.eta_min == 0
    assert config.bbox_class_loss_coff == [loss["box"], loss["obj"], loss["cls"]]
    assert config.ignore_threshold == loss["ignore_threshold"] and not config.label_smooth
    assert (config.ema_decay, config.ms_amp_level, config.amp_loss_scale) == (0, "O2", 1)
    assert (config.per_batch_size, config.training_shape, config.testing_shape) == (16, 608, 608)
    assert config.pretrained_checkpoint == "./yolov4_backbone.ckpt"
    assert (config.mosaic, config.mixup, config.augment_flip, config.max_box) == (1, 0.1, 0.5, 160)
    assert (config.perspective_translate, config.perspective_scale) == (0.1, 0.9)
    assert (config.perspective_degrees, config.perspective_shear, config.perspective_warp) == (0, 0, 0)
    assert (config.perspective_hue, config.perspective_saturation, config.perspective_value) == (
        0.015,
        0.7,
        0.4,
    )
    assert config.anchor_scales[0] == [12, 16] and config.anchor_scales[-1] == [459, 401]
    assert (config.backbone_activation, config.neck_activation) == ("mish", "leaky")
    assert (config.max_epoch, config.t_max, config.nms_thresh, config.seed) == (300, 300, 0.65, 2)
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "without counterpart" in line]
    assert warning.endswith("data.dataset_name, data.train_transforms.resample_segments, "
                            "data.train_transforms.albumentations")  # fmt: skip


def test_a_base_may_be_a_text_and_what_is_above_wins(theirs):
    mine = {"configs/mine.yaml": {"__BASE__": "./yolov4/yolov4.yaml", "loss": {"box": 5.0}, "epochs": 7}}
    config = load_config([f"--config={theirs('configs/mine.yaml', mine)}", "--lr=0.5"], "train")
    assert config.bbox_class_loss_coff == [5, 1, 1] and config.ignore_threshold == 0.7
    assert (config.max_epoch, config.t_max, config.lr, config.warmup_epochs) == (7, 7, 0.5, 20)


def changed(*places, **values) -> dict:
    """Their YOLOv4 file with a change at a place of its sections."""
    document = copy.deepcopy(FILES["configs/yolov4/yolov4.yaml"])
    section = document
    for place in places:
        section = section.setdefault(place, {}) if isinstance(section, dict) else section[place]
    section.update(values)
    return {"configs/yolov4/yolov4.yaml": document}


def other_row(part: str, row: int, value) -> dict:
    document = copy.deepcopy(FILES["configs/yolov4/yolov4.yaml"])
    document["network"][part][row] = value
    return {"configs/yolov4/yolov4.yaml": document}


@pytest.mark.parametrize(
    "changes,named",
    [
        (changed("network", model_name="yolov7"), "network.model_name: yolov7; YOLOv4"),
        (changed("network", width_multiple=0.5), "network.width_multiple: 0.5"),
        (changed("network", stride=[8, 16, 32]), "network.stride"),
        (changed("network", anchors=[[1, 2]]), "nine pairs"),
        (
            other_row("backbone", 10, [-1, 3, "Residualblock", [64, "act=nn.Mish()"]]),
            "network.backbone: row 10",
        ),
        (other_row("head", 2, [-1, 1, "nn.MaxPool2d", [7, 1, "same"]]), "network.head: row 2"),
        (other_row("head", 1, [-1, 1, "ConvNormAct", [512, 1, 1]]), "network.head: activations"),
        (changed(accumulate=2), "accumulate: 2 means steps an update in MindYOLO"),
        (changed(freeze=[0, 1]), "freeze: [0, 1] are layer numbers of MindYOLO"),
        (changed("optimizer", optimizer="sgd"), "optimizer.optimizer: sgd; write momentum"),
        (changed("loss", name="YOLOv7Loss"), "loss.name: YOLOv7Loss"),
        (changed("loss", label_smoothing=0.1), "loss.label_smoothing: 0.1; only 0.0"),
        (changed("data", nc=3), "data.nc: 3, but data.names has 80"),
        (changed("data", val_set="elsewhere/val.txt"), "must lie in one folder"),
        (
            changed("data", train_transforms=[{"func_name": "hsv_augment", "prob": 0.5}]),
            "hsv_augment.prob: 0.5",
        ),
        (changed(__BASE__=3), "neither a path nor a list"),
        (changed(__BASE__="yolov4.yaml"), "do they name each other"),
        (changed(__BASE__="missing.yaml"), "missing.yaml"),
        (changed(ema="often"), "ema: 'often' is not a boolean"),
    ],
)
def test_what_is_not_built_here_is_refused_by_name(theirs, changes, named):
    with pytest.raises(UserError) as caught:
        load_config([f"--config={theirs('configs/yolov4/yolov4.yaml', changes)}"], "train")
    assert named in str(caught.value) and ".yaml" in str(caught.value)


@pytest.mark.parametrize("script", PROGRAMS)
def test_each_option_of_their_scripts_is_understood(script, capsys):
    """Each with its own default; only what does not exist here is named, in one warning."""
    skipped = {"--data_dir", "--image_path", "--precision_mode", "--enable_modelarts", "--freeze", "--weight"}
    words = [f"{key}={value}" for key, value in SCRIPTS[script].items() if key not in skipped]
    load_config([*words, "--weight=a.ckpt"], PROGRAMS[script])
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: command line: without counterpart here, left out: ")


@pytest.mark.parametrize(
    "program,words,expected",
    [
        ("train", "--img_size 640", {"training_shape": 640, "testing_shape": 640}),
        ("eval", "--img_size 640", {"testing_shape": 640}),
        ("train", "--save_dir runs", {"ckpt_path": "runs"}),
        ("test", "--save_dir runs", {"log_path": "runs"}),
        ("train", "--conf_thres 0.01", {"eval_ignore_threshold": 0.01}),
        ("test", "--conf_thres 0.01 --iou_thres 0.6", {"test_ignore_threshold": 0.01, "test_nms_thresh": 0.6}),
        ("inference", "--conf_thres 0.4", {"infer_threshold": 0.4}),
        ("train", "--ema True", {"ema_decay": 0.9999}),
        ("train", "--ema False", {"ema_decay": 0}),
        ("train", "--clip_grad True", {"clip_norm": 10}),
        ("train", "--clip_grad True --clip_grad_value 3", {"clip_norm": 3}),
        ("train", "--clip_grad False --clip_grad_value 3", {"clip_norm": 0}),
        ("train", "--run_eval True --run_eval_interval 5", {"eval_interval": 5, "eval_start_epoch": 5}),
        ("train", "--ms_datasink False", {}),
        ("train", "--ms_loss_scaler static", {"amp_dynamic": False}),
        ("train", "--ms_loss_scaler dynamic --ms_loss_scaler_value 256", {"amp_dynamic": True, "amp_loss_scale": 256}),
        ("train", "--strict_load False", {"filter_weight": True}),
        ("train", "--profiler True --summary True", {"need_profiler": True, "tensorboard": True}),
        ("train", "--ckpt_url s3://a/b --ckpt_dir /c", {"checkpoint_url": "s3://a/b", "load_path": "/c"}),
        ("inference", "--image_path a.jpg --mindir_path m.mindir", {"img_path": "a.jpg", "pretrained": "m.mindir"}),
        ("eval", "--model_type Lite --model_path m.mindir", {"mindir_runtime": "lite", "pretrained": "m.mindir"}),
        ("export", "--weight w.ckpt --per_batch_size 4", {"pretrained": "w.ckpt", "batch_size": 4}),
        ("train", "--weight w.ckpt", {"pretrained_checkpoint": "w.ckpt"}),
    ],
)  # fmt: skip
def test_their_names(program, words, expected, capsys):
    config = load_config(words.split(), program)
    assert {key: config[key] for key in expected} == expected
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "words,named",
    [
        (["--ema"], "no effect in eval.py: --ema acts in train.py"),
        (["--ms_loss_scaler=often"], "ms_loss_scaler: 'often' is not one of static, dynamic"),
        (["--ms_amp_level=O2"], "no effect in eval.py: --ms_amp_level acts in train.py"),
    ],
)
def test_their_names_where_they_have_no_effect(words, named):
    with pytest.raises(UserError) as caught:
        load_config(words, "eval")
    assert named in str(caught.value)


def test_what_is_set_otherwise_than_built_in_is_named(capsys):
    load_config(["--ms_mode=1", "--rect=True", "--ms_jit=True", "--single_cls=False"], "train")
    assert (
        capsys.readouterr().err
        == "warning: command line: without counterpart here, left out: ms_mode, rect\n"
    )
