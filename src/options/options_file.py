"""A YAML of options as `--config_path` reads it: ours, the model zoo's, the DOTA version's or MindYOLO's."""

from pathlib import Path
from typing import Any

from ..base.errors import UserError, one_line, shown
from ..base.text_file import read_text
from ..base.yaml_text import LONGEST_BYTES, load_yaml
from . import mindyolo, names, published
from .declared import Declared
from .shipped import shipped_file


def read_options(path: str, declared: Declared, entry_point: str) -> tuple[dict[str, Any], list[str]]:
    """Options by their names or aliases, with values as YAML has them, and remarks for the user.

    A path that is not there, such as configs/quickstart.yaml, is looked for among the shipped files.

    Raises:
        UserError: no readable YAML, or what it describes is not built here.
    """
    file = shipped_file(path)
    document = _read_yaml(file)
    remarks: list[str] = []
    if mindyolo.is_mindyolo(document):
        document = mindyolo.with_bases(file, _read_yaml)
        document, left_out = mindyolo.translate(document, path)
    else:
        document, left_out, remarks = published.translate(document, declared.values["labels"], path)
    document, others = names.expand(document, f"{path}: ", entry_point)
    return document, [*without_counterpart([*left_out, *others], path), *remarks]


def without_counterpart(left_out: list[str], where: str) -> list[str]:
    """One remark on all names that have no counterpart; none where all have."""
    return [f"{where}: without counterpart here, left out: {', '.join(left_out)}"] if left_out else []


def _read_yaml(path: Path) -> dict:
    """First document of a YAML file of options."""
    try:
        document = load_yaml(read_text(path, LONGEST_BYTES))
    except OSError as error:
        raise UserError(f"--config_path: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error, 400)}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: expected 'key: value' lines, found {type(document).__name__}")
    return {shown(key): value for key, value in document.items()}
