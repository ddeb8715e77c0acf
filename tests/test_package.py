"""The package: one folder that is `src` in a checkout and `yolov4` where it is installed."""

import ast
import re
import sys
from importlib import import_module

import pytest

import src
from src.commands import cli
from src.config import load_config
from tests import ROOT

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


def test_src_imports_itself_by_relative_names():
    """`from src.x import y` inside src would not be found in an installation."""
    absolute = []
    for path in sorted(ROOT.glob("src/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in ("src", "utils") for name in names):
                absolute.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not absolute


# ---------------------------------------------------------------- what pyproject.toml says


def project() -> dict:
    """The `[project]` table."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(name: str) -> list[str]:
    """The lines of a requirements file without comments and the files that it names."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def test_the_published_lists_and_the_package_want_the_same():
    found = project()
    assert found["dependencies"] == requirements("requirements.txt")
    extras = found["optional-dependencies"]
    assert set(extras) == {"deploy", "scenes", "tensorboard", "test"}
    for name in ("deploy", "scenes", "tensorboard"):
        assert extras[name] == requirements(f"requirements-{name}.txt")
    others, *own = extras["test"]
    assert others == f"{found['name']}[deploy,scenes,tensorboard]"
    assert own == requirements("requirements-test.txt")
    included = re.findall(r"-r (\S+)", (ROOT / "requirements-test.txt").read_text())
    assert included == [
        "requirements.txt",
        *(f"requirements-{name}.txt" for name in extras if name != "test"),
    ]


def test_one_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)[1]
    cited = re.search(r"^version: \"?([\d.]+)", (ROOT / "CITATION.cff").read_text(), flags=re.M)[1]
    assert newest == cited == src.__version__
    assert "version" in project()["dynamic"]


# ---------------------------------------------------------------- the console command


def test_help_names_every_command_and_each_has_its_own(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name, (module, line) in cli.COMMANDS.items():
        assert f"\n  {name}" in shown and line in shown
        assert callable(import_module(f"src.commands.{module}").main)
    for name in [
        "train",
        "eval",
        "test",
        "export",
        "predict",
        "check",
        "convert",
        "split",
        "anchors",
        "sample",
    ]:
        assert name in cli.COMMANDS
    assert cli.main([]) == 2 and capsys.readouterr().out == shown
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"yolov4 {src.__version__}\n"


def test_every_tool_and_published_script_starts_a_module_of_commands():
    modules = {path.stem for path in ROOT.glob("src/commands/*.py")} - {"__init__", "cli"}
    tools = [path for path in ROOT.glob("utils/**/[a-z]*.py") if path.stem != "checkout"]
    scripts = [ROOT / f"{name}.py" for name in ("train", "eval", "test", "export", "inference")]
    assert modules == {path.stem for path in [*tools, *scripts]}
    for path in [*tools, *scripts]:
        text = path.read_text()
        assert f"from src.commands.{path.stem} import main" in text and "sys.path" not in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_s_help_is_that_of_its_script(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolov4"])
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    ours = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["published.py"])
    with pytest.raises(SystemExit):
        import_module(f"src.commands.{cli.COMMANDS[name][0]}").main(["--help"])
    published = capsys.readouterr().out
    assert ours.split()[:3] == ["usage:", "yolov4", name]
    assert re.findall(r"--\w+", ours) == re.findall(r"--\w+", published)


@pytest.mark.parametrize(
    "words,heard",
    [
        (["trian"], "no command 'trian'; did you mean train?"),
        (["xyz"], "no command 'xyz'; there are train, eval"),
        (["predict", "--img_pth=a"], "did you mean img_path?"),
        (["eval", "--lr=1"], "no effect in eval.py: --lr acts in train.py"),
        (["check", "--data_dir=nowhere"], "nowhere"),
        (["sample", "--out=."], "train is there already"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, heard, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(sys, "argv", ["yolov4"])
    assert cli.main(words) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith("error: ") and heard in caught.err and len(caught.err.splitlines()) == 1


def test_shipped_options_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(["--config=configs/yolov4/yolov4.yaml"]).labels[0] == "person"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").write_text("max_epoch: 7\n")
    assert load_config(["--config=configs/quickstart.yaml"]).max_epoch == 7  # the user's own comes first
