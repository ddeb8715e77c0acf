"""The table of options and entry points: what each program reads while it runs is what the table says it uses."""

import sys
from importlib import import_module

import cv2
import numpy as np
import pytest

from src.base.errors import UserError
from src.config import Config, load_config
from src.options.declared import read_declared
from tests import ROOT
from tests.tiny import OPTIONS, options_of, write_tiles

PROGRAMS = ("train", "eval", "test", "export", "inference")
PROPERTIES = {"pick", "num_classes", "heads", "eval_input_hw", "train_shapes"}

# Read by a program that the table does not name it for, and why it has no effect there.
BUILT_IN = dict.fromkeys(
    ("batch_norm_momentum", "drop_block", "drop_block_size"),
    "built into every network, acts in training mode",
)
COPIED = {"tile_size": "copied into the settings of the model, which eval.py and test.py do not cut by"}
ALONE = {"is_distributed": "the program sets it to False before it is read"}
IN_VAIN = {
    "train": {},
    "eval": BUILT_IN | COPIED,
    "test": BUILT_IN | COPIED,
    "export": BUILT_IN
    | ALONE
    | dict.fromkeys(("multi_label_thresh", "max_candidates"), "of no part of the exported suppression"),
    "inference": BUILT_IN | ALONE,
}
# In the table and not read in the runs of this test, and where it acts.
CARD = {"deterministic": "an Ascend card"}
EXPORTED = {
    "mindir_runtime": "a .mindir",
    "lite_precision": "an exported model on Ascend",
    "batch_size": "an exported model without settings",
    "per_batch_size": "src.config: the value of eval_batch_size where that is 0",
}
ELSEWHERE = {
    "train": CARD
    | {
        "gradient_messages": "several ranks",
        "transfer_train": "src.config: sets filter_weight",
        "is_save_on_master": "another rank",
        "transfer_checkpoint_url": "a transfer without a start of its own",
    },
    "eval": CARD | EXPORTED,
    "test": CARD
    | EXPORTED
    | {"ann_val_file": "no test set", "label_dir": "tiles of scenes", "scene_merge": "tiles of scenes"},
    "export": CARD,
    "inference": CARD | {key: EXPORTED[key] for key in ("mindir_runtime", "lite_precision")},
}


def read_by(action, *arguments) -> set[str]:
    """The options that are read while an action runs, but for those that `src.config` itself looks at."""
    read = set()

    def note(key: str) -> None:
        frame = sys._getframe(2)
        if frame.f_globals["__name__"] == "src.config" and frame.f_code.co_name in PROPERTIES:
            frame = frame.f_back.f_back if frame.f_back.f_code.co_name == "read_attribute" else frame.f_back
        place = frame.f_globals["__name__"]
        if place != "src.config" and not place.startswith(("src.options", "collections", "_collections")):
            read.add(key)

    attribute, item = Config.__getattr__, Config.__getitem__

    def read_attribute(self, name):
        note(name)
        return attribute(self, name)

    def read_item(self, name):
        note(name)
        return item(self, name)

    Config.__getattr__, Config.__getitem__ = read_attribute, read_item
    try:
        action(*arguments)
    finally:
        Config.__getattr__, Config.__getitem__ = attribute, item
    return read


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> dict[str, set[str]]:
    """The options that each program reads: it runs once, and what is built otherwise by options is built too."""
    root = tmp_path_factory.mktemp("table")
    tiles = write_tiles(root / "tiles")
    (tiles / "test").symlink_to(tiles / "val")
    (tiles / "annotations" / "test.json").symlink_to(tiles / "annotations" / "val.json")
    (root / "in").mkdir()
    rng = np.random.default_rng(0)
    for name, side in (("small", 90), ("scene", 130)):
        cv2.imwrite(str(root / "in" / f"{name}.png"), rng.integers(0, 255, (side, side, 3), np.uint8))
    shared = [word for word in OPTIONS if not word.startswith("--testing_shape")] + [
        "--test_img_shape=[96,96]"
    ]
    shared += [f"--data_dir={tiles}", f"--log_path={root / 'log'}", f"--ckpt_path={root / 'run'}"]

    def run(name: str, *words: str) -> set[str]:
        config = load_config([*options_of(name, shared), *words], entry_point=name)
        return read_by(import_module(f"src.commands.{name}").run, config)

    def build(*words: str) -> set[str]:
        from src.runtime.device import Runtime
        from src.train.run import start_run

        config = load_config([*options_of("train", shared), *words], entry_point="train")
        return read_by(start_run, config, Runtime())

    found = {"train": run("train", "--max_epoch=1", "--run_eval=1", "--eval_start_epoch=1")}
    (checkpoint,) = root.glob("run/*/ckpt_0/best_map.ckpt")
    found["train"] |= build("--augmentation=perspective", "--accumulate=2", "--training_shape=")
    found["train"] |= build(
        f"--pretrained_checkpoint={checkpoint}", "--transfer_train=1", "--ms_amp_level=O2"
    )
    found["train"] |= build(f"--pretrained_checkpoint={checkpoint}")
    found["eval"] = run("eval", f"--pretrained={checkpoint}", "--result_view=1")
    found["test"] = run("test", f"--pretrained={checkpoint}")
    found["export"] = run(
        "export",
        f"--pretrained={checkpoint}",
        f"--file_name={root / 'net'}",
        "--file_format=OM",
        "--soc_version=Ascend310P3",
        "--end_to_end=1",
        "--end_to_end_form=static",
    )
    model = [f"--pretrained={checkpoint}", f"--img_path={root / 'in'}"]
    found["inference"] = run("inference", *model)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_a_program_reads_is_what_the_table_says(read, name):
    declared = read_declared()
    modelarts = set(declared.help_by_group["ModelArts"])
    table = {key for key, places in declared.used_by.items() if name in places} - modelarts
    assert read[name] - table - modelarts == set(IN_VAIN[name]), "reads, and the table does not say so"
    assert table - read[name] == set(ELSEWHERE[name]), "the table says so, and it does not read"


def test_modelarts_options_act_where_there_is_a_session():
    used_by = read_declared().used_by
    for name in PROGRAMS:
        has_session = "modelarts_session(config)" in (ROOT / f"src/commands/{name}.py").read_text()
        assert has_session == (name in used_by["enable_modelarts"]) == (name in used_by["data_path"])


@pytest.mark.parametrize(
    "name,word,named",
    [
        ("train", "--batch_size=4", "--batch_size acts in eval.py, test.py, export.py, inference.py"),
        ("train", "--infer_threshold=0.5", "--infer_threshold acts in inference.py"),
        ("eval", "--lr=1", "no effect in eval.py: --lr acts in train.py"),
        ("test", "--nms_thresh=0.5", "--nms_thresh acts in train.py, eval.py, export.py, inference.py"),
        ("inference", "--data_dir=x", "--data_dir acts in train.py, eval.py, test.py"),
        ("train", "--rank=1", "--rank acts nowhere: the launcher sets it"),
    ],
)
def test_an_option_without_effect_is_refused_on_the_command_line(name, word, named, tmp_path, capsys):
    with pytest.raises(UserError) as caught:
        load_config([word], name)
    assert named in str(caught.value)
    path = tmp_path / "all.yaml"
    path.write_text(word[2:].replace("=", ": "))
    load_config([f"--config_path={path}"], name)  # one file serves every program
    heard = capsys.readouterr().err
    assert heard == (
        f"warning: rank ({path}): the launcher sets it, 1 has no effect\n" if "rank" in word else ""
    )


def test_options_that_wait_for_another_are_refused_without_it(tmp_path):
    from src.detect.settings import ModelSettings
    from src.evaluation.session import start_folder
    from src.export.export import check_options
    from src.runtime.device import Runtime

    with pytest.raises(UserError, match="nms_thresh: acts under end_to_end alone"):
        check_options(load_config(["--nms_thresh=0.5"], "export"))
    words = [f"--log_path={tmp_path}", "--batch_size=2", "--pretrained=net.ckpt"]
    with pytest.raises(UserError, match=r"batch_size: .* eval_batch_size"):
        start_folder(load_config(words, "eval"), Runtime())
    model = ModelSettings.from_config(load_config(["--testing_shape=96"]))
    with pytest.raises(UserError, match=r"testing_shape .*416x416.*96x96"):
        model.laid_over(load_config(["--testing_shape=416"], "inference"))
    assert model.laid_over(load_config(["--testing_shape=96"], "inference")).eval_input_hw == (96, 96)


def test_a_modelarts_job_gives_all_programs_the_same(capsys):
    config = load_config(["--enable_modelarts=1", "--lr=1", "--data_url=d"], "eval")
    assert (
        config.enable_modelarts and "no effect in eval.py: --lr acts in train.py" in capsys.readouterr().err
    )
