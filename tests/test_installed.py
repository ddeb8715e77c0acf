"""The package as pip installs it, in an environment that has nothing else but what it depends on."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest

from src.config import load_config
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests.tiny import OPTIONS, options_of

ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    "src",
    "configs",
    "default_config.yaml",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)
PROGRAM = """
from yolov4 import load
model = load("tiny.ckpt", **{options})
found = model.detect("photos/one.jpg")
import src
assert src.__file__.endswith("mine/src/__init__.py"), src.__file__
print(len(found), found.boxes.shape, set(found.names) <= set(model.class_names))
"""


def make_environment(folder: Path) -> Path:
    """A virtual environment with the test's packages, but not this project, on its search path; its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def install(python: Path, source: Path, *words: str) -> None:
    """pip install the project there, from a copy, without the network."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    subprocess.run([*command, "--no-deps", "--no-build-isolation", *words, source], check=True)


def copy_of_project(folder: Path) -> Path:
    """What a build needs, so that it leaves nothing in the checkout."""
    folder.mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A user's folder, with a checkpoint of the tiny network, an image, and a `src` of the user's own."""
    folder = tmp_path_factory.mktemp("user") / "mine"
    (folder / "photos").mkdir(parents=True)
    (folder / "src").mkdir()
    (folder / "src" / "__init__.py").touch()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "photos" / "one.jpg"), rng.integers(0, 255, (90, 80, 3), np.uint8))
    ms.set_context(mode=ms.GRAPH_MODE)
    save_checkpoint(build_network(load_config(OPTIONS)), folder / "tiny.ckpt")
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder of programs of an environment that the project is installed in."""
    folder = tmp_path_factory.mktemp("installed")
    python = make_environment(folder / "venv")
    install(python, copy_of_project(folder / "copy"))
    shutil.rmtree(folder / "copy")  # what is installed stands alone
    return python.parent


def run(command: list, cwd: Path) -> subprocess.CompletedProcess:
    """Run a program as a user does, without this test's search path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_predict_from_another_folder(installed, place):
    words = ["--device_target=CPU", "--model=tiny.ckpt", "--img_path=photos", "--infer_threshold=0.05"]
    done = run([installed / "yolov4", "predict", *options_of("inference"), *words], place)
    assert done.returncode == 0, done.stderr
    (written,) = place.glob("outputs/*/detections.json")
    (entry,) = json.loads(written.read_text())
    assert Path(entry["file"]).name == "one.jpg" and entry["detections"]


def test_three_lines_beside_a_src_of_one_s_own(installed, place):
    options = dict(word[2:].split("=") for word in options_of("inference")) | {"infer_threshold": 0.05}
    (place / "three.py").write_text(PROGRAM.format(options=options))
    done = run([installed / "python", "three.py"], place)
    assert done.returncode == 0, done.stderr
    count, *rest = done.stdout.split(maxsplit=1)
    assert int(count) > 0 and rest == [f"({count}, 4) True\n"]


def test_what_ships_is_there_and_nothing_else_is_on_top(installed, place):
    done = run([installed / "yolov4", "train", "--config=configs/quickstart.yaml", "--print_config"], place)
    assert done.returncode == 0 and "(configs/quickstart.yaml)" in done.stdout, done.stderr
    done = run([installed / "yolov4", "trian"], place)
    assert done.returncode == 2 and done.stderr == "error: yolov4: no command 'trian'; did you mean train?\n"
    (site,) = installed.parent.glob("lib/python*/site-packages")
    tops = {path.name for path in site.iterdir() if not path.name.endswith((".dist-info", ".pth"))}
    assert tops == {"yolov4"}
    shipped = {path.relative_to(ROOT / "configs") for path in ROOT.glob("configs/**/*.yaml")}
    assert {
        path.relative_to(site / "yolov4" / "configs") for path in site.glob("yolov4/configs/**/*.yaml")
    } == shipped
    modules = {
        path.relative_to(ROOT / "src") for path in ROOT.glob("src/**/*.*") if path.suffix in (".py", ".csv")
    }
    assert not sorted(path for path in modules if not (site / "yolov4" / path).is_file())


def test_editable_installation_runs_the_checkout(tmp_path, place):
    python, copy = make_environment(tmp_path / "venv"), copy_of_project(tmp_path / "copy")
    install(python, copy, "--editable")
    (copy / "src" / "commands" / "cli.py").write_text("def main():\n    print('edited')\n")
    done = run([python.parent / "yolov4"], place)
    assert done.stdout == "edited\n", done.stderr
    done = run([python, "-c", "from yolov4.options.declared import DEFAULT_CONFIG as f; print(f)"], place)
    assert Path(done.stdout.strip()) == copy / "default_config.yaml", done.stderr
