"""Options: precedence, types, aliases and the one-line errors."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from src.base.errors import UserError
from src.base.heads import STRIDES_OF
from src.config import Config, load_config
from src.options.declared import DEFAULT_CONFIG, LEVELS, read_declared
from src.options.names import ALIASES, EARLIER
from tests import ROOT

# The defaults of the published "Script Parameters" table.
PUBLISHED_DEFAULTS = {
    "per_batch_size": 8,
    "lr_scheduler": "exponential",
    "lr": 0.001,
    "lr_epochs": "220,250",
    "lr_gamma": 0.1,
    "eta_min": 0,
    "t_max": 320,
    "max_epoch": 320,
    "warmup_epochs": 0,
    "weight_decay": 0.0005,
    "momentum": 0.9,
    "loss_scale": 64,
    "label_smooth": 0,
    "label_smooth_factor": 0.1,
    "log_interval": 100,
    "ckpt_path": "outputs/",
    "is_save_on_master": 1,
    "is_distributed": 1,
    "rank": 0,
    "group_size": 1,
    "need_profiler": 0,
    "training_shape": "",
    "resize_rate": 10,
    "transfer_train": False,
    "device_target": "Ascend",
}


def test_defaults_are_the_published_ones():
    config = load_config([])
    assert {key: config[key] for key in PUBLISHED_DEFAULTS} == PUBLISHED_DEFAULTS


def test_command_line_wins_over_yaml_wins_over_default(tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("lr: 0.5\nmax_epoch: 7\nrun_eval: 1\n---\nlr: help text of a published file\n")
    config = load_config(["--config_path", str(overlay), "--lr=0.25"])
    assert (config.lr, config.max_epoch, config.run_eval, config.momentum) == (0.25, 7, True, 0.9)
    assert config.origins["lr"] == "command line"
    assert config.origins["max_epoch"] == str(overlay)
    assert config.origins["momentum"] == "default"


@pytest.mark.parametrize("word,value", [("0", False), ("1", True), ("true", True), ("False", False)])
def test_booleans(word, value):
    assert load_config([f"--is_distributed={word}"]).is_distributed is value
    assert load_config(["--run_eval", word]).run_eval is value


@pytest.mark.parametrize("recipe,switched_on", [("crop", 0.5), ("perspective", 1.0)])
@pytest.mark.parametrize(
    "word,value",
    [("0", 0), ("1", 1), ("True", None), ("False", 0), ("0.25", 0.25), ("1.0", 1), ("yes", None), ("no", 0)],
)
def test_mosaic_is_a_switch_or_a_probability(tmp_path, recipe, switched_on, word, value):
    """True is what each published recipe means by it: every second image, or each."""
    value = switched_on if value is None else value
    overlay = tmp_path / "c.yaml"
    overlay.write_text(f"mosaic: {word}\naugmentation: {recipe}\n")
    chosen = f"--augmentation={recipe}"
    for words in ([f"--mosaic={word}", chosen], [chosen, "--mosaic", word], ["--config_path", str(overlay)]):
        config = load_config(words)
        assert config.mosaic == value and isinstance(config.mosaic, float)
    assert load_config([chosen, "--mosaic"]).mosaic == switched_on
    assert load_config([chosen]).mosaic == 0


def test_filters_are_a_list_of_known_ones():
    from src.transforms import FILTERS

    assert load_config(["--resize_filters=bicubic,bicubic"]).resize_filters == ["bicubic"] * 2
    assert set(load_config([f"--resize_filters={','.join(FILTERS)}"]).resize_filters) == set(FILTERS)
    with pytest.raises(UserError, match=r"resize_filters: 'cubic' .* is not one of .*; did you mean bicubic"):
        load_config(["--resize_filters=nearest,cubic"])


def test_aliases_reach_their_options(tmp_path):
    overlay = tmp_path / "c.yaml"
    overlay.write_text("seed: 5\n")
    config = load_config(
        [
            "--config",
            str(overlay),
            "--epochs",
            "3",
            "--is_parallel",
            "True",
            "--weight=a.ckpt",
            "--iou_thres=0.6",
        ]
    )
    assert (config.seed, config.max_epoch, config.is_distributed) == (5, 3, True)
    assert (config.pretrained, config.nms_thresh) == ("a.ckpt", 0.6)
    assert set(ALIASES.values()) <= {"config_path", *config}


def test_earlier_names_and_words_are_accepted_everywhere(tmp_path):
    """In options files, run folders and on command lines; each value is one that is no default."""
    values = {
        "flip": 0.25, "degrees": 3.0, "translate": 0.2, "scale": 0.5, "shear": 2.0, "perspective": 0.0001,
        "hue_gain": 0.2, "saturation_gain": 0.3, "value_gain": 0.1, "sat": 0.5, "sat_strength": 2.0,
        "merge": "weighted", "bands": "4,3,2", "stretch": "2,98",
    }  # fmt: skip
    assert set(values) == set(EARLIER)
    words = {"invalid_boxes": "error", "bad_annotations": "refuse", "wrong_sizes": "refuse"}
    overlay = tmp_path / "earlier.yaml"
    overlay.write_text(yaml.safe_dump({**values, **words, "data_sink": False}))
    defaults = load_config([])
    for config in (
        load_config([f"--config_path={overlay}"]),
        load_config([f"--{key}={value}" for key, value in {**values, **words, "ms_datasink": 0}.items()]),
    ):
        assert {old: config[new] for old, new in EARLIER.items()} == values
        assert not [new for new in EARLIER.values() if config[new] == defaults[new]]
        assert [config[key] for key in words] == ["error"] * 3
    with pytest.raises(UserError, match=r"bad_annotations: 'ignore' .* is not one of error, drop"):
        load_config(["--bad_annotations=ignore"])


def test_one_vocabulary_for_bad_data():
    """What may happen to bad data is error, drop or repair; what cut_boxes chooses is no bad data."""
    allowed = read_declared().allowed
    vocabulary = {"error", "drop", "repair"}
    choosing = {
        key for key, rule in allowed.items() if isinstance(rule, list) and {*rule} & {*vocabulary, "refuse"}
    }
    assert choosing == {"invalid_boxes", "bad_annotations", "wrong_sizes", "cut_boxes"}
    assert all(set(allowed[key]) < vocabulary for key in choosing - {"cut_boxes"})


@pytest.mark.parametrize(
    "words,named",
    [
        (["--lrr=1"], "did you mean lr"),
        (["--lr=fast"], "lr: 'fast' is not a finite number"),
        (["--lr=nan"], "not a finite number"),
        (["--lr=0"], "outside (0, inf)"),
        (["--max_epoch=1.5"], "not a whole number"),
        (["--run_eval=maybe"], "not a boolean"),
        (["--device_target=Ascent"], "did you mean Ascend"),
        (["--training_shape=417"], "not a multiple of 32"),
        (["--multi_scale=[[416,400]]"], "multiples of 32"),
        (["--backbone_shape=[1,2]"], "needs 5 entries"),
        (["--labels=ship,ship"], "named twice: ship"),
        (["--accumulate=3", "--per_batch_size=8"], "3 parts do not divide per_batch_size 8"),
        (["--augmentation=perspective", "--perspective_warp=0.009"], "over the horizon; take at most 0.0006"),
        (["--cmbn"], "accumulate, set that to 2 or more"),
        (["--data_sink"], "leave it at False"),
        (["--ms_datasink", "True"], "--ms_datasink: there is no feeding from the device's queue"),
        (["--lr_epochs=a,b"], "lr_epochs"),
        (["--mosaic=1.5"], "mosaic: 1.5 (command line) is outside [0, 1]"),
        (["--mosaic=often"], "mosaic: 'often' is not a finite number"),
        (["--augmentation=mosaic"], "not one of crop, perspective"),
        (["--augmentation=perspective", "--perspective_warp=0.001"], "take at most 0.00061"),
        (["stray"], "unexpected word"),
        (["--config_path=/nonexistent.yaml"], "/nonexistent.yaml"),
    ],
)
def test_mistakes_are_named(words, named):
    with pytest.raises(UserError) as caught:
        load_config(words)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text,named",
    [
        ("learning_rate: 3\n", "learning_rate: unknown option"),
        ("- a\n- b\n", "expected 'key: value' lines"),
        ("lr: [1\n", "not valid YAML"),
        ("lr: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("seed: {a: 1}\n", "not a whole number"),
        ("seed: true\n", "not a whole number"),
        ("ckpt_path: [a, b]\n", "ckpt_path: expected one value"),
    ],
)
def test_bad_yaml_names_the_file(tmp_path, text, named):
    overlay = tmp_path / "bad.yaml"
    overlay.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config([f"--config_path={overlay}"])
    assert str(overlay) in str(caught.value) and named in str(caught.value)


def test_implied_values():
    assert load_config(["--lr_scheduler=cosine_annealing", "--max_epoch=400"]).t_max == 400
    assert load_config(["--lr_scheduler=linear", "--max_epoch=400"]).t_max == 400
    assert load_config(["--lr_scheduler=cosine_annealing_V2", "--max_epoch=400"]).t_max == 320
    assert load_config(["--transfer_train=1"]).filter_weight is True
    assert load_config(["--testing_shape=416"]).eval_input_hw == (416, 416)
    assert load_config(["--test_img_shape=[416,608]"]).eval_input_hw == (416, 608)
    assert load_config([]).train_shapes == [(side, side) for side in range(416, 737, 32)]


def test_config_is_immutable_and_reads_back(tmp_path):
    config = load_config(["--lr=0.3", "--training_shape=416"])
    with pytest.raises(AttributeError):
        config.lr = 1
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert dict(load_config([f"--config_path={saved}"])) == dict(config)


def test_yaml_may_leave_a_value_empty_and_give_the_epochs_as_a_list(tmp_path):
    overlay = tmp_path / "c.yaml"
    overlay.write_text("pretrained_backbone:\nlr_epochs: [3, 5]\n")
    config = load_config([f"--config_path={overlay}"])
    assert config.pretrained_backbone == "" and config.lr_epochs == "3,5"


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_load(path):
    assert isinstance(load_config([f"--config_path={path}"]), Config)


def test_every_option_is_documented_once():
    values, help_by_group, allowed, places, by_network = yaml.safe_load_all(DEFAULT_CONFIG.read_text())
    documented = [key for group in help_by_group.values() for key in group]
    assert sorted(documented) == sorted(values)
    assert all(
        len(entry) == 1 and set(entry) <= set(LEVELS)
        for group in help_by_group.values()
        for entry in group.values()
    )
    assert set(allowed) <= set(values)
    assert set(help_by_group) <= set(places) <= {*values, *help_by_group}
    programs = {"train", "eval", "test", "export", "inference"}
    assert all(set(names) <= programs for names in places.values())
    assert set(by_network) < set(allowed["network"]) == set(STRIDES_OF)
    assert all(set(own) < set(values) for own in by_network.values())


def test_entry_point_prints_one_line_and_exits_2():
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--maxepoch=3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: --maxepoch: unknown option; did you mean max_epoch?\n"


HELP = {  # entry point: a group that its help shows, and one that is another's
    "train": ("Augmentation", "Export"),
    "eval": ("Evaluation", "Augmentation"),
    "test": ("Test", "Loss"),
    "export": ("Export", "Augmentation"),
    "inference": ("Scenes", "ModelArts"),
}


def test_published_are_the_options_of_the_published_files():
    """Those that are not are ours: everyday or advanced."""
    files = (ROOT / "tests" / "fixtures" / "published").glob("*.json")
    published = {key for path in files if "mindyolo" not in path.name for key in json.loads(path.read_text())}
    published = {ALIASES.get(key, key) for key in published}
    levels = read_declared().levels
    assert {key for key, level in levels.items() if level == "published"} == published & set(levels)
    assert published - set(levels) == {"num_classes", "out_channel", "img_id_file_path", "result_files"}


def help_of(name: str, word: str, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        load_config([word], name, "What it does.")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", HELP)
def test_help_is_two_screens_and_marks_the_published_options(name, capsys):
    declared = read_declared()
    short, whole = (help_of(name, word, capsys) for word in ("--help", "--help-all"))
    lines = short.splitlines()
    assert len(lines) <= 120 and max(map(len, lines)) <= 110
    assert "--help-all" in lines[-1]
    shown = dict(
        re.findall(r"^  --(\w+)[^*\n]*?  (\* |(?=\S))", "\n".join(lines[lines.index("Run:") :]), re.MULTILINE)
    )
    here = {key for key, programs in declared.used_by.items() if name in programs}
    assert set(shown) == {key for key in here if declared.levels[key] != "advanced"}
    assert {key for key in shown if shown[key]} == {
        key for key in here if declared.levels[key] == "published"
    }
    assert set(re.findall(r"^  --(\w+)", whole.split("Run:\n")[1], re.MULTILINE)) == here
    texts = (text for group in declared.help_by_group.values() for key, text in group.items() if key in here)
    flowing = "".join(whole.split())  # lines break at hyphens too
    assert not [text for text in texts if "".join(text.split()) not in flowing]


@pytest.mark.parametrize("name", HELP)
@pytest.mark.parametrize("word", ["--help", "--help-all"])
def test_help_is_grouped_short_and_says_defaults(name, word, capsys):
    text = help_of(name, word, capsys)
    lines = text.splitlines()
    assert lines[0].startswith("usage: ") and lines[1] == ""
    assert f"{HELP[name][0]}:" in lines and f"{HELP[name][1]}:" not in lines
    assert max(map(len, lines)) <= 110
    defaults = next(yaml.safe_load_all(DEFAULT_CONFIG.read_text()))
    entries = re.split(r"\n(?=  --)", text.split("Run:\n")[1])
    shown = [re.match(r"  --(\w+)", entry) for entry in entries]
    assert 25 < sum(map(bool, shown)) < len(defaults)
    for match, entry in zip(shown, entries):
        assert match is None or re.search(r"\[.*\]$", entry.split("\n\n")[0].strip(), re.DOTALL), entry


@pytest.mark.parametrize(
    "tool", sorted(DEFAULT_CONFIG.parent.glob("utils/**/[a-z]*.py")), ids=lambda path: path.stem
)
def test_help_of_each_tool(tool):
    done = subprocess.run([sys.executable, str(tool), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "None" not in done.stdout, "a default that is none"
    for entry in re.findall(r"\n  --\w+ .*(?:\n {8,}.*)*", done.stdout):
        assert len(entry.split()) > 2, f"an option without a help text: {entry}"
