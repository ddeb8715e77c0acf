"""The package: one folder that is `src` in a checkout and `yolov4` where it is installed."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
