"""Each command line of the READMEs of the model zoo's YOLOv4 and of MindYOLO: what `--print_config` then shows."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from src.config import load_config
from src.options.names import aliases_of, expand

FIXTURES = Path(__file__).parent / "fixtures" / "published"
MODEL_ZOO = json.loads((FIXTURES / "model_zoo_default_config.json").read_text())
MINDYOLO = json.loads((FIXTURES / "mindyolo_yolov4.json").read_text())
NO_OPTION = {"img_id_file_path", "result_files"}

# The model zoo's commands; its default_config.yaml lies beside its programs.
COMMANDS = [
    "train.py --data_dir=./dataset/xxx --pretrained_backbone=cspdarknet53_backbone.ckpt --is_distributed=0 --lr=0.1 "
    "--t_max=320 --max_epoch=320 --warmup_epochs=4 --training_shape=416 --lr_scheduler=cosine_annealing",
    "eval.py --data_dir=./dataset/xxx --pretrained=yolov4.ckpt --testing_shape=608",
    "eval.py --data_dir=./dataset/coco2017 --pretrained=yolov4.ckpt --testing_shape=608",
    "test.py --data_dir=./dataset/coco2017 --pretrained=yolov4.ckpt --testing_shape=608",
    "export.py --ckpt_file yolov4.ckpt --file_name yolov4 --file_format MINDIR --keep_detect True",
    "export.py --ckpt_file yolov4.ckpt --file_name yolov4 --file_format ONNX --keep_detect False",
    "train.py --enable_modelarts=True --data_dir=/cache/data/coco/ --checkpoint_url=s3://dir_to_your_pretrain/ "
    "--pretrained_backbone=/cache/checkpoint_path/cspdarknet53_backbone.ckpt",
    "train.py --enable_modelarts=True --data_dir=/cache/data/coco/ --checkpoint_url=s3://dir_to_your_pretrain/ "
    "--pretrained_backbone=/cache/checkpoint_path/cspdarknet53_backbone.ckpt --is_distributed=0 --warmup_epochs=4 "
    "--training_shape=416",
    "eval.py --enable_modelarts=True --data_dir=/cache/data/coco/ --checkpoint_url=s3://dir_to_your_trained_ckpt/ "
    "--pretrained=/cache/checkpoint_path/model.ckpt --is_distributed=0 --per_batch_size=1",
    "test.py --enable_modelarts=True --data_dir=/cache/data/coco/ --checkpoint_url=s3://dir_to_your_trained_ckpt/ "
    "--pretrained=/cache/checkpoint_path/model.ckpt --is_distributed=0 --per_batch_size=1 --test_nms_thresh=0.45 "
    "--test_ignore_threshold=0.001",
]

# MindYOLO's, with its YOLOv4 where a README takes another network; `mpirun -n 8 python` or `msrun` stand in front.
CONFIG = "--config ./configs/yolov4/yolov4.yaml"
SILU = "--config ./configs/yolov4/yolov4-silu.yaml"
THEIR_COMMANDS = [
    ("train", f"{SILU} --device_target Ascend --is_parallel True --epochs 320"),
    ("train", f"{SILU} --is_parallel True"),
    ("train", f"{CONFIG} --device_target Ascend --epochs 320"),
    ("train", CONFIG),
    ("test", f"{SILU} --device_target Ascend --iou_thres 0.6 --weight /PATH/TO/WEIGHT.ckpt"),
    ("test", f"{CONFIG} --weight=/path_to_ckpt/WEIGHT.ckpt"),
    ("inference", f"{CONFIG} --weight=/path_to_ckpt/WEIGHT.ckpt --image_path /path_to_image/IMAGE.jpg"),
    ("inference", f"{CONFIG} --weight=/path_to/W.ckpt --image_path /path_to_image/IMAGE.jpg --device_target=GPU"),
    ("export", f"{CONFIG} --weight w.ckpt --per_batch_size 1 --file_format MINDIR --device_target CPU"),
    ("test", f"--model_type Lite --model_path ./yolov4.mindir {CONFIG}"),
    ("inference", f"--model_type Lite --model_path ./yolov4.mindir {CONFIG} --image_path ./coco/image/val2017/a.jpg"),
]  # fmt: skip


def printed(words: list[str], program: str, capsys) -> dict[str, tuple[str, str]]:
    """Value and origin of each option, as `--print_config` shows them."""
    with pytest.raises(SystemExit) as ended:
        load_config([*words, "--print_config"], program)
    assert ended.value.code == 0
    rows = [line.partition(" = ") for line in capsys.readouterr().out.splitlines()]
    return {
        key.strip(): (text.rpartition("  (")[0], text.rpartition("  (")[2].rstrip(")"))
        for key, _, text in rows
    }


def given(words: list[str]) -> dict[str, str]:
    """Names and texts of a command line in both ways of writing it."""
    pairs = " ".join(words).replace("=", " ").split()
    return {name.removeprefix("--"): text for name, text in zip(pairs[::2], pairs[1::2], strict=True)}


def assert_shown(shown: dict, key: str, text) -> None:
    """`text`, of a command line or a file, is the value that is shown."""
    value = shown[key][0].strip("'")
    same = {"True": {"True", "1", "true"}, "False": {"False", "0", "false"}}.get(value, set())
    number = value.replace(".", "").replace("-", "").replace("e", "").isdigit() and float(value) == float(
        text
    )
    assert str(text) in {value, *same} or number, f"{key}: {text} became {value}"


@pytest.mark.parametrize("with_file", [False, True], ids=["alone", "with its file"])
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_model_zoo(command, with_file, tmp_path, capsys):
    program, *words = shlex.split(command)
    asked = given(words)
    path = tmp_path / "default_config.yaml"
    path.write_text(yaml.safe_dump(MODEL_ZOO))
    shown = printed(words + [f"--config_path={path}"] * with_file, program.removesuffix(".py"), capsys)
    for key, text in asked.items():
        assert shown[key][1] == "command line"
        assert_shown(shown, key, text)
    config = load_config(words + [f"--config_path={path}"] * with_file, program.removesuffix(".py"))
    assert {key: repr(value) for key, value in config.items()} == {
        key: text for key, (text, _) in shown.items()
    }
    if with_file:
        untouched = set(MODEL_ZOO) - set(asked) - NO_OPTION
        assert {key: config[key] for key in untouched} == {key: MODEL_ZOO[key] for key in untouched}
    others = {key for key, (_, origin) in shown.items() if origin not in ("default", "derived", str(path))}
    assert others == set(asked)
    assert shown["eval_batch_size"][0] == shown["per_batch_size"][0]


@pytest.mark.parametrize("program,command", THEIR_COMMANDS)
def test_commands_of_mindyolo(program, command, tmp_path, monkeypatch, capsys):
    for path, document in MINDYOLO.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    shown = printed(words, program, capsys)
    asked = given(words)
    file = asked.pop("config")
    options, left_out = expand(asked, "--", program)
    assert not left_out
    expected = {aliases_of(program).get(key, key): text for key, text in options.items()}
    for key, text in expected.items():
        assert shown[key][1] == "command line"
        assert_shown(shown, key, text)
    assert {key for key, (_, origin) in shown.items() if origin == "command line"} == set(expected)
    activation = "silu" if "silu" in file else "mish"
    assert shown["backbone_activation"][0] == repr(activation)
    assert shown["testing_shape"] == ("608", file) and shown["lr"] == ("0.012", file)
    epochs = asked.get("epochs", "300")
    assert (shown["max_epoch"][0], shown["t_max"][0]) == (epochs, epochs)
    if program == "train":
        assert shown["pretrained_checkpoint"][0] == "'./yolov4_backbone.ckpt'"
    if program == "test":
        assert shown["test_nms_thresh"][0] == asked.get("iou_thres", "0.65")
