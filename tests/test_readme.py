"""The READMEs and docs/: their commands run, their links, tree and options are there, and both languages are alike.

A comment in front of each fence of commands says what becomes of it: `<!-- run -->` (here), `<!-- run: slow -->`
(here, marked slow), `<!-- run: .ci/run -->` (the whole of the checks), `<!-- file: NAME -->` (a file that the next
commands read), `<!-- needs: ... -->` (what it wants that a plain machine lacks), `<!-- shown -->` (no command).

Pages come in one order, that of the table "Where to go on" in the README, after the README itself: it is how a reader
goes on, and what a block writes the blocks after it read (tiles and checkpoints of the README, the exported files).

Commands are run as they stand, in that order, in a folder that has the tree and data of the pages' names.
`python` there is a wrapper that adds options at the end of the command line, where they win: a network of a few
channels, an input of 96 pixels, one epoch, two drawn scenes, the CPU (`ADDED`). Nothing else is changed.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np
import pytest
import yaml

from src.datasets.sample.scenes import draw_scene
from src.options.names import ALIASES, foreign
from tests import ROOT
from tests.tiny import OPTIONS

NETWORK = [word for word in OPTIONS if word.startswith(("--backbone_", "--device_target", "--testing_shape"))]
TRAINING = ["--training_shape=96", "--per_batch_size=2", "--eval_batch_size=2", "--max_epoch=1",
            "--warmup_epochs=0", "--eval_start_epoch=1", "--log_interval=1"]  # fmt: skip
ADDED = {
    "train.py": [*NETWORK, *TRAINING],
    "eval.py": [*NETWORK, "--eval_batch_size=2"],
    "test.py": [*NETWORK, "--eval_batch_size=2"],
    "export.py": NETWORK,
    "inference.py": NETWORK,
    "convert_weights.py": NETWORK,
    "make_sample.py": ["--train_scenes=2", "--val_scenes=1", "--size=620", "--workers=1"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the mark in front of it, language, text without indentation, line of the fence."""

    page: str
    mark: str
    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """Its lines without comments."""
        lines = (re.sub(r"\s+#.*", "", line) for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def text_of(name: str) -> str:
    """A page, given by its path in the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def pages_of(readme: str) -> list[str]:
    """A README and its pages, in the order of its table of them."""
    return [readme, *re.findall(r"^\| \[[^]]+\]\((docs/[\w/]+\.md)\)", text_of(readme), flags=re.M)]


def without_fences(name: str) -> str:
    """The text of a page between its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", text_of(name), flags=re.S | re.M)


def blocks_of(name: str) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        ValueError: a fence is not closed.
    """
    lines = text_of(name).splitlines()
    found, start = [], None
    for number, line in enumerate(lines):
        if not line.strip().startswith("```"):
            continue
        if start is None:
            start = number
            continue
        indent = len(lines[start]) - len(lines[start].lstrip())
        mark = re.fullmatch(r"<!-- (.+) -->", lines[start - 1].strip())
        body = "\n".join(line[indent:] for line in lines[start + 1 : number])
        found.append(Block(name, mark[1] if mark else "", lines[start].strip()[3:], body, start + 1))
        start = None
    if start is not None:
        raise ValueError(f"{name}:{start + 1}: this fence is not closed")
    return found


ENGLISH, CHINESE = pages_of("README.md"), pages_of("README_CN.md")
BLOCKS = [block for page in ENGLISH for block in blocks_of(page)]


# ---------------------------------------------------------------- the text


def test_every_page_is_in_the_table_of_both_readmes():
    there = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md")}
    assert set(ENGLISH[1:]) == there
    assert CHINESE[1:] == [page.replace("docs/", "docs/cn/") for page in ENGLISH[1:]]
    assert {path.name for path in ROOT.glob("docs/cn/*.md")} == {Path(page).name for page in CHINESE[1:]}


def test_readmes_are_short_and_pages_link_back():
    for readme, pages in (("README.md", ENGLISH[1:]), ("README_CN.md", CHINESE[1:])):
        assert len(text_of(readme).splitlines()) <= 200
        assert len(pages) > 10
        for page in pages:
            title, empty, *purpose = text_of(page).splitlines()[:4]
            assert re.match(r"# \S", title) and not empty, page
            assert f"../{readme})" in " ".join(purpose), f"{page}: the first paragraph does not link back"


@pytest.mark.parametrize("name", [*ENGLISH, *CHINESE])
def test_every_block_says_what_becomes_of_it(name):
    known = re.compile(r"run|run: slow|run: \.ci/run|shown|(file|needs): \S.*")
    bad = [f"{name}:{block.line}" for block in blocks_of(name) if not known.fullmatch(block.mark)]
    assert not bad
    for block in blocks_of(name):
        if block.language == "bash":
            assert not block.mark.startswith(("shown", "file")), f"{name}:{block.line}"


def test_the_checks_run_what_they_are_said_to():
    checked = [block for block in BLOCKS if block.mark == "run: .ci/run"]
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert checked and all(set(block.commands) <= set(ci) for block in checked)


@pytest.mark.parametrize("name", [*ENGLISH, *CHINESE, "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    text, folder = text_of(name), (ROOT / name).parent
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    assert targets
    missing = [each for each in targets if not re.match(r"https?:", each) and not (folder / each).is_file()]
    assert not missing
    named = set(re.findall(r"`((?:src|utils|tests|scripts|configs|benchmarks)/[\w/.]+)`", text))
    assert not sorted(each for each in named if not (ROOT / each).exists())
    requirements = set(re.findall(r"requirements[\w-]*\.txt", text))
    assert not sorted(each for each in requirements if not (ROOT / each).is_file())


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/cn/architecture.md"])
def test_the_tree_is_the_projects(name):
    tree = next(block.text for block in blocks_of(name) if block.text.startswith("train.py eval.py"))
    folder, listed = ".", set()
    for line in tree.splitlines():
        folder = folder if line.startswith(" ") else "."
        for word in re.findall(r"[\w./]+", line):
            if not re.fullmatch(r"[\w/]+(\.py|\.sh|\.yaml|/)", word):
                continue
            if "/" in word.rstrip("/") and not (ROOT / word).exists():
                pytest.fail(f"{word} is in the tree of {name} and not in the project")
            place = ROOT / word if (ROOT / word).exists() else ROOT / folder / word
            assert place.exists(), f"{word} is in the tree of {name} and not in {folder}"
            listed.add(place.relative_to(ROOT).as_posix())
            if "/" in word and place == ROOT / word:
                folder = word if word.endswith("/") else str(Path(word).parent)
    modules = [
        *ROOT.glob("*.py"),
        *ROOT.glob("src/*.py"),
        *ROOT.glob("utils/*.py"),
        *ROOT.glob("scripts/run*.sh"),
    ]
    folders = [path.parent for path in ROOT.glob("src/*/__init__.py")]
    expected = {path.relative_to(ROOT).as_posix() for path in [*modules, *folders] if path.stem != "__init__"}
    assert not sorted(expected - listed)


def known_options() -> set[str]:
    """Options of default_config.yaml, their other names, and those of the tools' own parsers."""
    documents = list(yaml.safe_load_all((ROOT / "default_config.yaml").read_text(encoding="utf-8")))
    tools = [
        path
        for place in ("src/commands/*.py", "benchmarks/*.py", "scripts/*.sh")
        for path in ROOT.glob(place)
    ]
    own = {word for path in tools for word in re.findall(r'"--(\w+)"', path.read_text(encoding="utf-8"))}
    values = {value for rule in documents[2].values() if isinstance(rule, list) for value in map(str, rule)}
    return (
        {
            *documents[0],
            *ALIASES,
            *foreign("train"),
            "save_dir",
            "config_path",
            "print_config",
            "help",
            "model",
        }
        | values
        | own
    )


@pytest.mark.parametrize("pages", [ENGLISH, CHINESE], ids=["English", "Chinese"])
def test_options_that_are_named_exist(pages):
    text = "\n".join(map(without_fences, pages))
    options, named = known_options(), set()
    for span in re.findall(r"`([^`]+)`", text):
        if not span.startswith("pip "):
            ours = re.sub(r"^msrun( --\S+)*", "", span)
            named |= set(re.findall(r"(?<![\w-])--(\w+)", ours))
        if match := re.fullmatch(r'([a-z]\w+)=[^ "]+', span):
            named.add(match[1])
    tables = [line for line in text.splitlines() if re.match(r"\| .+ \| .*`", line) and line.count("|") == 3]
    for row in tables:
        named |= set(re.findall(r"`([a-z]\w*_\w+)`", row.split("|")[2]))
    assert len(named) > 60
    assert not sorted(named - options), "the pages name options that are not there"


@pytest.mark.parametrize(("english", "chinese"), zip(ENGLISH, CHINESE))
def test_both_languages_have_the_same_sections_and_commands(english, chinese):
    without = [without_fences(name) for name in (english, chinese)]
    levels = [re.findall(r"^(#+) ", text, flags=re.M) for text in without]
    assert levels[0] == levels[1]
    ours, theirs = (blocks_of(name) for name in (english, chinese))
    assert [block.language for block in ours] == [block.language for block in theirs]
    for left, right in zip(ours, theirs):
        if left.language == "bash":
            assert left.commands == right.commands, f"{chinese}:{right.line}"
            kinds = [block.mark.split(":")[0] for block in (left, right)]
            assert kinds[0] == kinds[1], f"{chinese}:{right.line}"
    rows = [[line.count("|") for line in text.splitlines() if line.startswith("|")] for text in without]
    assert rows[0] == rows[1]


# ---------------------------------------------------------------- the commands


WRAPPER = """#!/usr/bin/env bash
# Adds the options that make a command a matter of seconds, then runs it.
case "$(basename "${1:-}")" in
%s
esac
exec %s "$@"
"""


def write_wrapper(path: Path) -> None:
    """A `python` that adds `ADDED` to the command line of the scripts named there."""
    cases = "\n".join(f'{name}) set -- "$@" {" ".join(words)} ;;' for name, words in ADDED.items())
    path.write_text(WRAPPER % (cases, sys.executable))
    path.chmod(0o755)


def write_command(path: Path) -> None:
    """A `yolov4` that adds the same to `predict`."""
    words = " ".join(ADDED["inference.py"])
    start = "import sys; from yolov4.commands.cli import main; sys.exit(main())"
    added = f'[ "${{1:-}}" != predict ] || set -- "$@" {words}'
    path.write_text(f"#!/usr/bin/env bash\n{added}\nexec {sys.executable} -c '{start}' \"$@\"\n")
    path.chmod(0o755)


def write_voc(folder: Path, boxes: dict[str, tuple], images: int = 5) -> None:
    """A folder in VOC's format: the same boxes (x1, y1, x2, y2, from 1) in each of some noisy images."""
    rng = np.random.default_rng(0)
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        image = rng.integers(0, 90, (120, 150, 3), np.uint8)
        entries = ""
        for name, (x1, y1, x2, y2) in boxes.items():
            image[y1:y2, x1:x2] = 220
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x1, y1, x2, y2))
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
            entries += f"<object><name>{escape(name)}</name><bndbox>{box}</bndbox></object>"
        cv2.imwrite(str(folder / "JPEGImages" / f"{number}.png"), image)
        size = "<size><width>150</width><height>120</height></size>"
        text = f"<annotation><filename>{number}.png</filename>{size}{entries}</annotation>"
        (folder / "Annotations" / f"{number}.xml").write_text(text)


def write_yolo(folder: Path, images: int = 5) -> None:
    """A folder of YOLO's text labels, three classes."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "data.yaml").write_text("names: [ship, plane, buoy]\n")
    for number in range(images):
        image = np.full((120, 150, 3), 20 * number, np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        rows = [f"{label} 0.{label + 3} 0.5 0.1 0.2" for label in range(3)]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(rows))


def write_weights(folder: Path) -> None:
    """Checkpoints of the tiny network under the names of the pages, and Darknet's files of it."""
    import mindspore as ms

    from src.config import load_config
    from src.weights.checkpoint import save_checkpoint
    from src.weights.convert import convert
    from src.yolo import build_network

    ms.set_context(mode=ms.GRAPH_MODE)
    network = build_network(load_config(NETWORK))
    for name in ("yolov4.ckpt", "yolov4_dota.ckpt"):
        save_checkpoint(network, folder / name)
    prefix = "feature_map."
    backbone = [
        {"name": parameter.name.removeprefix(prefix), "data": parameter}
        for parameter in network.get_parameters()
        if parameter.name.startswith(f"{prefix}backbone.")
    ]
    from src.commands.convert_weight_cspdarknet53 import ORI_WEIGHT

    for name in ("cspdarknet53_backbone.ckpt", ORI_WEIGHT):
        ms.save_checkpoint(backbone, str(folder / name))
    convert(load_config(NETWORK), folder / "cspdarknet53_backbone.ckpt", folder / "first.weights")
    (folder / "first.weights").rename(folder / "yolov4.conv.137")
    coco = load_config([f"--config={ROOT}/configs/yolov4/yolov4.yaml", "--lateral_kernel=1", *NETWORK])
    save_checkpoint(build_network(coco), folder / "coco.ckpt")
    convert(coco, folder / "coco.ckpt", folder / "yolov4.weights")
    (folder / "coco.ckpt").unlink()


def write_scenes(folder: Path) -> None:
    """Drawn scenes: DOTA's layout, images, and GeoTIFF."""
    import rasterio
    from rasterio.transform import from_origin

    from src.datasets.dota_labels import write_labels

    for seed, split in enumerate(("train", "val")):
        image, labels = draw_scene(seed + 2, 620)
        place = folder / "DOTA" / split
        for name in ("images", "labelTxt"):
            (place / name).mkdir(parents=True)
        cv2.imwrite(str(place / "images" / "P1.png"), image[..., ::-1])
        write_labels(place / "labelTxt" / "P1.txt", labels, gsd=0.2)
    for name in ("pictures", "scenes"):
        (folder / name).mkdir()
    cv2.imwrite(str(folder / "pictures" / "one.jpg"), image[:96, :96])
    grid = {"crs": "EPSG:32631", "transform": from_origin(5e5, 5.4e6, 0.2, 0.2)}
    for name in ("scenes/one.tif", "scene.tif"):
        target = rasterio.open(
            folder / name, "w", driver="GTiff", width=200, height=180, count=3, dtype="uint8", **grid
        )
        with target:
            target.write(np.moveaxis(image[:180, :200], 2, 0))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    """The tree by links, the wrapper as `.venv/bin/python`, and what the pages' commands read."""
    folder = tmp_path_factory.mktemp("readme")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("outputs", "quickstart", "dataset"):
            (folder / path.name).symlink_to(path)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    write_wrapper(binaries / "python")
    write_command(binaries / "yolov4")
    (folder / "yolov4").symlink_to(ROOT / "src")  # as it is installed
    (binaries / "msrun").symlink_to(Path(sys.executable).parent / "msrun")
    stamp = "".join(path.read_text() for path in sorted(ROOT.glob("requirements*.txt")))
    (folder / ".venv" / ".installed-requirements.txt").write_text(stamp)  # what is installed is this Python's
    write_weights(folder)
    write_scenes(folder)
    write_voc(
        folder / "VOC2012", {"ship": (11, 11, 50, 40), "plane": (61, 31, 95, 70), "buoy": (101, 81, 130, 99)}
    )
    write_voc(
        folder / "mydata", {"boat": (11, 11, 50, 40), "car": (61, 31, 95, 70), "plane": (101, 81, 130, 99)}
    )
    write_yolo(folder / "yolodata")
    for block in BLOCKS:
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.text)
    return folder


def runnable() -> list:
    """The blocks to run, named by page, line and first command."""
    found = []
    for block in BLOCKS:
        if block.mark in ("run", "run: slow"):
            marks = [pytest.mark.slow] if block.mark == "run: slow" else []
            words = " ".join(block.commands[0].split()[:2])
            found.append(pytest.param(block, id=f"{block.page}:{block.line} {words}", marks=marks))
    return found


@pytest.mark.parametrize("block", runnable())
def test_commands_run(block, scratch):
    """In the pages' order: what one block writes, the next reads."""
    path = f"{scratch}/.venv/bin:/usr/local/bin:/usr/bin:/bin"
    home = {"HOME": str(scratch), "PATH": path, "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=scratch, env=home, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.page}:{block.line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_a_wrong_command_is_noticed(scratch):
    """The wrapper hides no error: a mistyped option fails as it does for a reader."""
    block = Block("README.md", "run", "bash", "python eval.py --data_dirr=dataset/dota", 1)
    with pytest.raises(AssertionError, match="did you mean data_dir"):
        test_commands_run(block, scratch)
    shutil.rmtree(scratch / "outputs", ignore_errors=True)


def test_lines_are_readable():
    """No line break inside a word of Chinese, no sentence broken off."""
    for name in [*ENGLISH, *CHINESE]:
        for first, second in pairwise(text_of(name).splitlines()):
            assert not (first.endswith("  ") and second), f"{name}: trailing blanks before {second!r}"
