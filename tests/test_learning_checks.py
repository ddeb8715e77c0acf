"""Warnings that training cannot go well: each where it should be, and not where all is well."""

import json
import re
import shutil

import numpy as np

from src.runtime.device import Runtime
from src.train.learning_checks import LossWatch, warnings_before
from src.train.run import start_run
from src.yolo_dataset import load_detection_set
from tests.tiny import NAMES, tiny_config

ANCHORS = np.array(
    [[12, 16], [19, 36], [40, 28], [36, 75], [76, 55], [72, 146], [142, 110], [192, 243], [459, 401]]
)
RATES = np.array([0.0, 0.01], np.float32)


def load(root, split, labels=NAMES):
    return load_detection_set(root / split, root / "annotations" / f"{split}.json", labels)


def found(root, **changes):
    values = {
        "train": load(root, "train"),
        "validation": load(root, "val"),
        "rates": RATES,
        "anchors": ANCHORS,
        "input_hw": (96, 96),
    }
    return warnings_before(**{**values, **changes})


def test_nothing_is_said_of_a_good_run(own_tiles):
    assert found(own_tiles) == []
    assert found(own_tiles, validation=None) == []


def test_a_class_without_samples(own_tiles):
    (line,) = found(own_tiles, train=load(own_tiles, "train", ["ship", "tank", "plane"]))
    assert "train.json: no objects of 1 of 3 classes (tank)" in line and "labels" in line


def test_anchors_that_fit_nothing(own_tiles):
    # All boxes are 36x26 of 150x120: 23.04 x 20.8 in the input
    (line,) = found(own_tiles, anchors=np.full((9, 2), 300))
    assert (
        "anchor_scales: only 0.0% of the training boxes, in an input of 96x96" in line
        and "make_anchors" in line
    )
    side = np.sqrt(23.04 * 20.8 / 0.213)  # of a square around it, of which it is 21.3 %
    assert found(own_tiles, anchors=np.full((9, 2), side - 0.1)) == []
    assert len(found(own_tiles, anchors=np.full((9, 2), side + 0.1))) == 1


def test_a_rate_of_zero(own_tiles):
    (line,) = found(own_tiles, rates=np.zeros(10, np.float32))
    assert line.startswith("lr: the learning rate is 0 in every step")


def test_evaluation_on_training_images(own_tiles):
    train = load(own_tiles, "train")
    (line,) = found(own_tiles, validation=train)
    assert "same annotations" in line and "ann_val_file" in line
    # another file, and a link to the same images
    shutil.copy(own_tiles / "annotations" / "train.json", own_tiles / "annotations" / "linked.json")
    (own_tiles / "linked").symlink_to(own_tiles / "train")
    (line,) = found(own_tiles, validation=load(own_tiles, "linked"))
    assert re.search(r"linked\.json: 6 of its 6 images are trained on too \(\S+/1\.png, ", line)


def test_exploding_loss_is_said_once_after_twenty_steps():
    watch = LossWatch()
    said = [bool(watch.update(loss)) for loss in [100.0, 50.0, 20.0] * 30 + [501.0] * 60]
    assert said.index(True) == 90 + 19 and sum(said) == 1  # the median is 50


def test_noise_falling_loss_and_short_peaks_are_not_explosions():
    rng = np.random.default_rng(0)
    losses = 3000 * np.exp(-np.arange(2000) / 300) + rng.lognormal(3, 0.8, 2000)
    losses[500:519] *= 100  # one less than it takes
    watch = LossWatch()
    assert not any(watch.update(loss) for loss in losses)


def test_training_says_them_once_in_its_log(own_tiles, tmp_path):
    document = json.loads((own_tiles / "annotations" / "train.json").read_text())
    for annotation in document["annotations"]:
        annotation["category_id"] = 1
    (own_tiles / "annotations" / "train.json").write_text(json.dumps(document))
    words = ["--run_eval=1", f"--ann_val_file={own_tiles / 'annotations' / 'train.json'}"]
    shutil.rmtree(own_tiles / "val")
    (own_tiles / "val").symlink_to(own_tiles / "train")
    started = start_run(tiny_config(own_tiles, tmp_path / "out", *words), Runtime())
    log = next(started.folder.path.glob("*.log")).read_text()
    assert len(re.findall(r":WARNING:\S+train.json: no objects of 1 of 2 classes \(plane\)", log)) == 1
    assert len(re.findall(r":WARNING:\S+train.json: training and evaluation read the same", log)) == 1
    assert log.count(":WARNING:training starts from random weights") == 1
    assert log.count("WARNING") == 3
