"""What default_config.yaml declares of each option: value, help, what is allowed and where it acts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ..base.errors import UserError, one_line
from .shipped import SHIPPED

LEVELS = ("published", "everyday", "advanced")
DEFAULT_CONFIG = SHIPPED / "default_config.yaml"


@dataclass(frozen=True)
class Declared:
    """The documents of the default file.

    Attributes:
        values: the default of each option.
        help_by_group: what each option means, by the groups of `--help`.
        levels: one of `LEVELS` for each option.
        allowed: a list of values, or an interval such as `[0, 1)`, of the options that have one.
        used_by: the entry points that each option acts in.
        by_network: defaults that a network has instead, by its name.
    """

    values: dict[str, Any]
    help_by_group: dict[str, dict[str, str]]
    levels: dict[str, str]
    allowed: dict[str, Any]
    used_by: dict[str, tuple[str, ...]]
    by_network: dict[str, dict[str, Any]]

    def defaults_of(self, network: str) -> dict[str, Any]:
        """The defaults that depend on the network, as a network has them."""
        depending = {key: self.values[key] for values in self.by_network.values() for key in values}
        return {**depending, **self.by_network.get(network, {})}

    def without_effect(self, meant: Mapping[str, Iterable[str]], entry_point: str) -> str:
        """One line on the names that do not act in an entry point, and where they do; empty if all act.

        Args:
            meant: the options that each name stands for.
            entry_point: where they were given.
        """
        places = []
        for name, options in meant.items():
            used_by = list(dict.fromkeys(place for key in options for place in self.used_by[key]))
            if options and entry_point not in used_by:
                where = f"in {', '.join(f'{place}.py' for place in used_by)}" if used_by else ""
                places.append(f"--{name} acts {where or 'nowhere: the launcher sets it'}")
        return f"no effect in {entry_point}.py: {'; '.join(places)}" if places else ""


def read_declared() -> Declared:
    """Read the default file.

    Raises:
        UserError: it cannot be read, or an option lacks a part.
    """
    try:
        with DEFAULT_CONFIG.open(encoding="utf-8") as handle:
            values, groups, allowed, places, by_network = yaml.safe_load_all(handle)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{DEFAULT_CONFIG}: {one_line(error, 400)}; restore the file") from error
    unlevelled = [
        key
        for group in groups.values()
        for key, entry in group.items()
        if not isinstance(entry, dict) or len(entry) != 1 or not set(entry) <= set(LEVELS)
    ]
    if unlevelled:
        raise UserError(f"{DEFAULT_CONFIG}: {unlevelled} need one of {', '.join(LEVELS)} with a help text")
    levels = {key: next(iter(entry)) for group in groups.values() for key, entry in group.items()}
    help_by_group = {
        title: {key: entry[levels[key]] for key, entry in group.items()} for title, group in groups.items()
    }
    undocumented = set(values) ^ set(levels)
    if undocumented:
        raise UserError(f"{DEFAULT_CONFIG}: {sorted(undocumented)} lack a value or a help text")
    homeless = set(help_by_group) - set(places)
    if homeless:
        raise UserError(
            f"{DEFAULT_CONFIG}: the groups {sorted(homeless)} lack the entry points that they act in"
        )
    used_by = {
        key: tuple(places.get(key, places[title])) for title, group in help_by_group.items() for key in group
    }
    return Declared(values, help_by_group, levels, allowed, used_by, by_network)
