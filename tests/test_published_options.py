"""The options files of the model zoo's YOLOv4 and of the DOTA version load as they are, with their values."""

import json
from pathlib import Path

import pytest
import yaml

from src.base.errors import UserError
from src.config import load_config

FILES = sorted((Path(__file__).parent / "fixtures" / "published").glob("*_config.json")) + [
    Path(__file__).parent / "fixtures" / "published" / "dota_version.json"
]
OTHER_NAMES = {"ckpt_max_num": "keep_checkpoint_max"}
NO_OPTION = {"img_id_file_path", "result_files", "num_classes", "out_channel"}


def published(path: Path) -> dict:
    return json.loads(path.read_text())


def write(folder: Path, values: dict) -> str:
    path = folder / "default_config.yaml"
    path.write_text(yaml.safe_dump(values))
    return f"--config_path={path}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_published_file_loads_and_every_key_has_its_published_value(tmp_path, path, capsys):
    values = published(path)
    config = load_config([write(tmp_path, values)])
    assert config.mosaic == (0.5 if values.pop("mosaic") else 0)  # the published switch: every second image
    differing = {
        key: (value, config[OTHER_NAMES.get(key, key)])
        for key, value in values.items()
        if key not in NO_OPTION and config[OTHER_NAMES.get(key, key)] != value
    }
    assert not differing
    assert config.num_classes == len(values["labels"]) == values.get("num_classes", config.num_classes)
    assert config.eval_batch_size == values["per_batch_size"]
    warnings = capsys.readouterr().err.splitlines()
    left_out = [line for line in warnings if "without counterpart" in line]
    assert len(left_out) == 1 and "img_id_file_path, result_files" in left_out[0]
    ignored = [line for line in warnings if "published code ignored it" in line]
    assert len(ignored) == 1 and "test_nms_thresh 0.45" in ignored[0]
    assert ("nms_thresh 0.5," in ignored[0]) == (values["nms_thresh"] == 0.5)
    assert len(warnings) == (3 if "use_modelarts" in values else 2)


def test_what_the_dota_version_takes_on_its_command_lines(tmp_path):
    file = write(tmp_path, published(FILES[-1]))
    words = "--use_modelarts 0 --data_dir d --per_batch_size 4 --lr 0.012 --t_max 320 --max_epoch 320 --warmup_epochs 4"
    words += " --ckpt_path out --is_distributed 1 --ckpt_max_num 7 --max_box 240"
    config = load_config([file, *words.split()])
    assert (config.use_modelarts, config.keep_checkpoint_max, config.max_box) == (False, 7, 240)
    assert (config.lr, config.t_max, config.per_batch_size, config.ckpt_path) == (0.012, 320, 4, "out")


def test_use_modelarts_acts_where_there_is_an_address(tmp_path, capsys):
    config = load_config(["--use_modelarts=1"])
    assert not config.enable_modelarts
    assert "use_modelarts (command line): none of data_url, train_url" in capsys.readouterr().err
    config = load_config(["--use_modelarts", "1", f"--data_url={tmp_path}"])
    assert config.enable_modelarts and not capsys.readouterr().err
    assert not load_config([f"--data_url={tmp_path}"]).enable_modelarts


@pytest.mark.parametrize(
    "values,named",
    [
        ({"num_classes": 80, "labels": ["ship", "plane"]}, "num_classes: 80, but labels names 2 classes"),
        ({"out_channel": 255, "labels": ["ship"]}, "out_channel: 255, but labels names 1 classes, which makes 18"),
        ({"num_classes": 3}, "num_classes: 3, but labels names 16 classes"),
    ],
)  # fmt: skip
def test_numbers_of_classes_are_checked_against_the_labels(tmp_path, values, named):
    with pytest.raises(UserError) as caught:
        load_config([write(tmp_path, values)])
    assert named in str(caught.value) and "default_config.yaml" in str(caught.value)


def test_both_programs_suppress_at_the_overlap_of_the_published_code(tmp_path, capsys):
    config = load_config([])
    assert config.nms_thresh == config.test_nms_thresh == 0.6
    load_config([write(tmp_path, {"nms_thresh": 0.5})])  # a file of the user's own: nothing to say
    assert not capsys.readouterr().err


def test_the_batch_of_evaluation():
    assert load_config([]).eval_batch_size == 8
    assert load_config(["--per_batch_size=3"]).eval_batch_size == 3
    assert load_config(["--per_batch_size=3", "--eval_batch_size=1"]).eval_batch_size == 1
