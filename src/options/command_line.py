"""The command line: every option by its name and its other names, and help by group.

`--help` has a line for each published and everyday option, `--help-all` the whole text of all.
"""

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping
from typing import Any, NoReturn

from ..base.errors import UserError
from .declared import Declared
from .names import foreign
from .values import SWITCHED, known_key

HELP_ALL = "--help-all"
WIDTH, NAMES_WIDTH, DEFAULT_WIDTH = 110, 40, 24
PUBLISHED_MARK = "* "


def parse_command_line(
    argv: list[str] | None,
    declared: Declared,
    entry_point: str,
    description: str,
    aliases: Mapping[str, str],
) -> dict[str, str]:
    """Options given on the command line, as strings, by their real names; arguments as of `src.config.load_config`."""
    defaults = declared.values
    argv = sys.argv[1:] if argv is None else argv
    everything = HELP_ALL in argv
    parser = _Parser(
        usage="%(prog)s [--config_path FILE] [--NAME=VALUE ...]",
        description=description,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
        epilog=f"{PUBLISHED_MARK}published option. A YAML file may hold the options of all programs. "
        f"{HELP_ALL}: every option, in full.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=NAMES_WIDTH, width=WIDTH),
    )
    general = parser.add_argument_group("Options file and help")
    general.add_argument(
        "--config_path", "--config", dest="config_path", metavar="FILE", help="YAML laid over the defaults"
    )
    general.add_argument(
        "--print_config",
        nargs="?",
        const="1",
        metavar="0/1",
        help="show the resolved options and where each came from",
    )
    general.add_argument(
        "-h", "--help", action="help", help="the published and the everyday options of this program"
    )
    general.add_argument(HELP_ALL, action="help", help="every option of this program with its whole text")
    names = {real: [alias for alias, target in aliases.items() if target == real] for real in defaults}
    for title, options in declared.help_by_group.items():
        in_help = {
            key
            for key in options
            if (not entry_point or entry_point in declared.used_by[key])
            and (everything or declared.levels[key] != "advanced")
        }
        group = parser.add_argument_group(title) if in_help else parser
        for key, text in options.items():
            if key in aliases:  # its name means another option in this entry point
                continue
            is_flag = isinstance(defaults[key], bool) or key in SWITCHED
            value: dict[str, Any] = {"nargs": "?", "const": "true"} if is_flag else {}
            others = [f"--{alias}" for alias in names[key]]
            mark = PUBLISHED_MARK if declared.levels[key] == "published" else ""
            default = _shown_default(defaults[key])
            if everything:
                also = f" (also {', '.join(others)})" if others else ""
                shown = f"{mark}{text}{also} [{default}]"
            else:
                shown = _in_a_line(mark + text, default)
            group.add_argument(
                f"--{key}",
                metavar=_metavar(defaults[key], declared.allowed.get(key) if everything else None),
                help=shown.replace("%", "%%") if key in in_help else argparse.SUPPRESS,
                **value,
            )
            if others:
                parser.add_argument(*others, dest=key, help=argparse.SUPPRESS, **value)
    for name in foreign(entry_point):
        parser.add_argument(f"--{name}", nargs="?", const="1", help=argparse.SUPPRESS)
    given, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if word.startswith("--"):
            known_key(word[2:].split("=")[0], defaults, aliases, "--")
        raise UserError(f"unexpected word on the command line: {word!r}; options are written --name=value")
    return vars(given)


class _Parser(argparse.ArgumentParser):
    """Raises a mistake, which is reported as every other one is, instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"command line: {message}; see --help")


def _metavar(default: Any, rule: Any) -> str:
    if isinstance(rule, list):
        return "{" + ",".join(map(str, rule)) + "}"
    return {bool: "0/1", int: "N", float: "X", list: "LIST"}.get(type(default), "VALUE")


def _in_a_line(text: str, default: str) -> str:
    """What a help text begins with, and the default."""
    default = default if len(default) <= DEFAULT_WIDTH else f"{default[: DEFAULT_WIDTH - 1]}…"
    space = WIDTH - NAMES_WIDTH - len(f" [{default}]")
    return f"{textwrap.shorten(re.split('[;.] ', text)[0], space, placeholder=' …')} [{default}]"


def _shown_default(default: Any) -> str:
    if isinstance(default, list) and len(default) > 3:
        return f"{len(default)} values"
    return '""' if default == "" else str(default)
