"""A tiny data set and network, so that whole runs fit in a test."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from src.config import Config, load_config
from src.options.declared import read_declared
from tests import ROOT

NAMES = ["ship", "plane"]
OPTIONS = [
    "--device_target=CPU",
    "--is_distributed=0",
    "--labels=ship,plane",
    "--backbone_input_shape=4,8,8,16,16",
    "--backbone_shape=8,8,16,16,32",
    "--backbone_layers=1,1,1,1,1",
    "--training_shape=96",
    "--testing_shape=96",
    "--per_batch_size=2",
    "--eval_batch_size=2",
    "--max_box=20",
    "--max_epoch=2",
    "--lr_scheduler=cosine_annealing",
    "--lr=0.01",
    "--log_interval=1",
]


def options_of(program: str, words: list[str] = OPTIONS) -> list[str]:
    """The words whose options act in a program (train, eval, ...); it refuses the others."""
    used_by = read_declared().used_by
    return [word for word in words if program in used_by[word[2:].split("=")[0]]]


def write_tiles(root: Path, train: int = 6, val: int = 3) -> Path:
    """Images with bright (ship) and red (plane) rectangles on noise, in the layout of `data_dir`."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            image = rng.integers(0, 90, (120, 150, 3), np.uint8)
            for label in (1, 2, 1):
                x, y = int(rng.integers(0, 110)), int(rng.integers(0, 90))
                image[y : y + 26, x : x + 36] = (250, 250, 250) if label == 1 else (30, 30, 220)
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": [x, y, 36, 26],
                     "area": 36 * 26, "iscrowd": 0}
                )  # fmt: skip
            cv2.imwrite(str(root / split / f"{number}.png"), image)
            images.append({"id": number, "file_name": f"{number}.png", "width": 150, "height": 120})
        categories = [{"id": index, "name": name} for index, name in enumerate(NAMES, start=1)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return root


def tiny_config(data_dir: Path, out: Path, *words: str) -> Config:
    """Options of a tiny run; `words` are further command line words."""
    places = [f"--data_dir={data_dir}", f"--ckpt_path={out}", f"--log_path={out}"]
    return load_config([*OPTIONS, *places, *words])


def train(cache: Path, data_dir: Path, out: Path, *words: str) -> tuple[Path, str]:
    """Run `train.py` on a tiny network in a process of its own: (folder of the run, its log).

    `cache` is the fixture `compile_cache`: of runs with one graph the first compiles it, which is most of its time.
    """
    options = [*OPTIONS, f"--data_dir={data_dir}", f"--ckpt_path={out}", f"--compile_cache={cache}", *words]
    earlier = set(out.glob("*/"))
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (folder,) = set(out.glob("*/")) - earlier
    return folder, next(folder.glob("*.log")).read_text()
