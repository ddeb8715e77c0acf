"""The options that a checkpoint of ours carries: the network it was trained as, and the names of its classes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError, shown
from ..config import FIXED_OPTIONS, NETWORK_OPTIONS, RUN_OPTIONS, Config, overlay

_WIDTHS = ("backbone_input_shape", "backbone_shape")  # channels
_LAYERS = ("backbone_layers",)


def check_class_order(config: Config, class_names: Sequence[str], where: str | Path) -> None:
    """Stop where `labels` was set and has a class of a checkpoint at another place than its outputs do.

    Another name at a place is a class renamed; one that has moved would be taken for another class, unseen.
    Another number of classes does not fit the class layers, which is said when they are loaded.

    Raises:
        UserError: names the first such class.
    """
    if config.origins["labels"] == "default" or len(config.labels) != len(class_names):
        return
    for place, name in enumerate(config.labels):
        if name in class_names and class_names.index(name) != place:
            raise UserError(
                f"labels: {name} is class {place + 1} ({config.origins['labels']}), in {where} it is class "
                f"{class_names.index(name) + 1}; leave labels out, the checkpoint knows its own"
            )


def carried_options(config: Config) -> dict[str, Any]:
    """What a checkpoint carries of the options, under `options` of its training state."""
    return {key: config[key] for key in NETWORK_OPTIONS}


def check_network(config: Config, path: str | Path, state: dict | None) -> None:
    """Stop where a checkpoint of ours is of another network than the options' (UserError names the remedy)."""
    carried = (state or {}).get("options", {}).get("network", config.network)
    if carried != config.network:
        raise UserError(
            f"{path}: holds {carried}, network is {config.network} ({config.origins['network']}); "
            f"add --network={carried}"
        )


def check_bounds(carried: Mapping, values: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Stop at a network that cannot be that of the file's own parameters, before it is built.

    No layer is wider than the widest parameter, and there are no more layers or classes than parameters have room for.

    Raises:
        UserError: names the first such option.
    """
    widest = max((side for value in values.values() for side in value.shape), default=0)
    counts = {"labels": widest, **dict.fromkeys(_LAYERS, len(values))}
    for key, most in {**dict.fromkeys(_WIDTHS, widest), **counts}.items():
        if key not in carried:
            continue
        option = carried[key]
        option = option if isinstance(option, list) else [option]
        numbers = (
            [len(option)]
            if key == "labels"
            else [entry for entry in option if isinstance(entry, int | float)]
        )
        if numbers and max(numbers) > most:
            raise UserError(
                f"{path}: {key} {shown(option)} is more than its own parameters have room for; the file is damaged"
            )


def check_carried(config: Config, carried: Mapping[str, Any], where: str | Path, keys: Sequence[str]) -> None:
    """Stop where an option was set to another value than a checkpoint carries, unless `override_checkpoint` names it.

    Args:
        config: the options of this run.
        carried: those of the checkpoint.
        where: the checkpoint, for errors.
        keys: options that are compared.

    Raises:
        UserError: names the first such option and both values.
    """
    overridden = overridden_options(config)
    if "labels" in keys and "labels" not in overridden:
        check_class_order(config, carried.get("labels", ()), where)
    for key in keys:
        if key not in carried or key in overridden or config.origins[key] == "default":
            continue
        if _plain(config[key]) != _plain(carried[key]):
            raise UserError(
                f"{key}: {shown(config[key])} ({config.origins[key]}), {where} was written with {shown(carried[key])}; "
                f"leave it out, the checkpoint knows its own, or mean it: --override_checkpoint={key}"
            )


def overridden_options(config: Config) -> set[str]:
    """The options that `override_checkpoint` names.

    Raises:
        UserError: one that no checkpoint carries.
    """
    named = {name.strip() for name in config.override_checkpoint.split(",") if name.strip()}
    known = {*FIXED_OPTIONS, *RUN_OPTIONS}
    if unknown := sorted(named - known):
        raise UserError(f"override_checkpoint: {shown(unknown[0])} is none of {', '.join(sorted(known))}")
    return named


def _plain(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def with_checkpoint_options(
    config: Config, path: str | Path, state: dict | None, values: Mapping[str, np.ndarray]
) -> Config:
    """The options, where they are defaults, as the run had them that wrote a checkpoint of ours.

    Raises:
        UserError: an option that the weights rest on was set to another value than the checkpoint carries;
            or options that cannot be those of its parameters `values`.
    """
    carried = (state or {}).get("options", {})
    if values:  # other formats know no names of theirs yet
        check_bounds(carried, values, path)
    check_carried(config, carried, path, FIXED_OPTIONS)
    if any(config.origins[key] != "default" for key in ("testing_shape", "test_img_shape")):
        carried = {
            key: value for key, value in carried.items() if key not in ("testing_shape", "test_img_shape")
        }
    return taken_over(config, carried, path, NETWORK_OPTIONS)


def taken_over(
    config: Config, carried: Mapping[str, object], path: str | Path, keys: Sequence[str]
) -> Config:
    """The options with those of `keys` that nobody has set, and that are not overridden, as a checkpoint has them."""
    chosen = {key for key in keys if config.origins[key] == "default"} - overridden_options(config)
    return overlay(config, {key: value for key, value in carried.items() if key in chosen}, str(path))
