"""Names and values of options: a word or a YAML value becomes one of the right type, or one clear line."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, one_line, shown
from ..base.yaml_text import load_yaml

# Probabilities that may also be written as booleans: False is never, True is left for the recipe to mean something.
SWITCHED = ("mosaic",)
# What happens to bad data is told by three words: error, drop (and count), repair. Earlier words of ours:
EARLIER_WORDS = {"bad_annotations": {"refuse": "error"}, "wrong_sizes": {"refuse": "error"}}
TRUE_FALSE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def known_key(key: str, defaults: Mapping, aliases: Mapping, where: str) -> str:
    """The real name of an option; an unknown one is an error that suggests the nearest."""
    if key in defaults:
        return key
    if key in aliases:
        return aliases[key]
    near = difflib.get_close_matches(str(key), [*defaults, *aliases, "config_path"], n=1)
    hint = f"; did you mean {near[0]}?" if near else "; see --help for the options"
    raise UserError(f"{where}{key}: unknown option{hint}")


def convert(key: str, raw: Any, default: Any, where: str) -> Any:
    """`raw` (a string of the command line or a YAML value) as the type of the default."""
    if key in ("training_shape", "testing_shape"):  # a number or nothing
        return "" if raw in ("", None) else _convert_number(key, raw, int, where)
    if isinstance(default, bool):
        value = TRUE_FALSE.get(str(raw).strip().lower())
        if value is None:
            raise UserError(f"{where}{key}: {shown(repr(raw))} is not a boolean; use 0, 1, true or false")
        return value
    if key in SWITCHED and str(raw).strip() not in ("0", "1"):
        word = TRUE_FALSE.get(str(raw).strip().lower())
        if word is True:
            return True
        raw = 0.0 if word is False else raw
    if isinstance(default, int | float):
        return _convert_number(key, raw, type(default), where)
    if isinstance(default, list):
        return _convert_list(key, raw, default, where)
    if isinstance(raw, list) and key == "lr_epochs":
        return ",".join(map(str, raw))
    if raw is None:
        return ""
    if isinstance(raw, dict | list):
        raise UserError(f"{where}{key}: expected one value, found {shown(repr(raw))}")
    return EARLIER_WORDS.get(key, {}).get(str(raw), str(raw))


def _convert_number(key: str, raw: Any, kind: type, where: str) -> int | float:
    try:
        if isinstance(raw, bool):
            raise ValueError
        value = float(raw)
        if not math.isfinite(value) or (kind is int and value != int(value)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a finite number"
        raise UserError(f"{where}{key}: {shown(repr(raw))} is not {expected}") from None
    return kind(value)


def _convert_list(key: str, raw: Any, default: list, where: str) -> list:
    """A list as YAML or, on the command line, as `[a, b]` or `a,b`; entries typed like the default's."""
    if isinstance(raw, str):
        try:
            raw = load_yaml(raw if raw.strip().startswith("[") else f"[{raw}]")
        except ValueError as error:
            raise UserError(f"{where}{key}: not a list: {one_line(error, 400)}") from error
    if not isinstance(raw, list) or not raw:
        raise UserError(f"{where}{key}: expected a list with entries, found {shown(repr(raw))}")
    like = default[0]
    if isinstance(like, list):
        if not all(isinstance(entry, list) and len(entry) == len(like) for entry in raw):
            raise UserError(f"{where}{key}: each entry must be a list of {len(like)} numbers")
        return [[_convert_number(key, value, int, where) for value in entry] for entry in raw]
    if isinstance(like, str):
        return [str(entry) for entry in raw]
    kind = float if isinstance(like, float) or key.endswith("_coff") else int
    return [_convert_number(key, value, kind, where) for value in raw]


def check_allowed(key: str, value: Any, rule: Any, origin: str) -> None:
    """Check a value, or each entry of a list, against a list or an interval such as `[0, 1)`."""
    if isinstance(value, list):
        for entry in value:
            check_allowed(key, entry, rule, origin)
        return
    if isinstance(rule, list):
        if value not in rule:
            near = difflib.get_close_matches(str(value), map(str, rule), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(
                f"{key}: {shown(repr(value))} ({origin}) is not one of {', '.join(map(str, rule))}{hint}"
            )
        return
    low, high = (float(bound) for bound in rule[1:-1].split(","))
    above = value >= low if rule[0] == "[" else value > low
    below = value <= high if rule[-1] == "]" else value < high
    if not (above and below):
        raise UserError(f"{key}: {value} ({origin}) is outside {rule}")
