"""Options: defaults in `default_config.yaml`, a YAML laid over them, the command line over that.

`load_config` gives one immutable, validated `Config` that is handed down to everything else. The default
file has documents of values, help by group and allowed values, as users of the model zoo know it, and a table of
where each option acts; of a YAML given with `--config_path` only the first document is read, so a published file
works as it is.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import yaml

from .base.errors import UserError, reports_mistakes
from .base.heads import ANCHORS_A_CELL, STRIDES_OF, Heads
from .options import names
from .options.command_line import parse_command_line
from .options.declared import Declared, read_declared
from .options.options_file import read_options, without_counterpart
from .options.values import check_allowed, convert, known_key

# What our checkpoints carry, so that nobody has to repeat it.
NETWORK_OPTIONS = (
    "labels",
    "network",
    "anchor_scales",
    "scale_x_y",
    "image_mean",
    "image_std",
    "backbone_input_shape",
    "backbone_shape",
    "backbone_layers",
    "backbone_activation",
    "neck_activation",
    "lateral_kernel",
    "downsample_padding",
    "batch_norm_momentum",
    "batch_norm_epsilon",
    "tile_size",
    "testing_shape",
    "test_img_shape",
    "letterbox",
    "letterbox_enlarge",
    "letterbox_style",
    "padding_grey",
)

# Of them those without which the weights mean something else; the others say how images are fed.
FIXED_OPTIONS = NETWORK_OPTIONS[: NETWORK_OPTIONS.index("batch_norm_momentum")] + ("batch_norm_epsilon",)
# What else a resumed run goes on with.
RUN_OPTIONS = ("seed", "optimizer", "ema_decay", "ms_amp_level")

OF_YOLOV4 = ("backbone_layers", "lateral_kernel")  # without effect in the other networks
LARGEST_SIDE = 8192  # pixels of the network's input
ADDRESSES = ("data_url", "train_url", "checkpoint_url")  # where ModelArts' folders are


class Config(Mapping):
    """Immutable options with attribute access; `origins` tells where each value came from."""

    def __init__(self, values: Mapping[str, Any], origins: Mapping[str, str] | None = None):
        object.__setattr__(self, "_values", MappingProxyType(dict(values)))
        object.__setattr__(self, "origins", MappingProxyType(dict(origins or {})))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no option named {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"options are immutable; use replace({name}=...)")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self):
        return Config, (dict(self._values), dict(self.origins))

    def replace(self, **changes: Any) -> "Config":
        """A copy with some values changed; an unknown name is an error."""
        unknown = set(changes) - set(self._values)
        if unknown:
            raise KeyError(f"no option named {sorted(unknown)}")
        origins = {**self.origins, **dict.fromkeys(changes, "derived")}
        return Config({**self._values, **changes}, origins)

    def pick(self, *names: str) -> dict[str, Any]:
        """Some of the options by name, for a function whose arguments are called as they are."""
        return dict(zip(names, map(self.__getitem__, names)))

    def to_yaml(self) -> str:
        """The values as YAML that `--config_path` reads back."""
        return yaml.safe_dump(dict(self._values), sort_keys=False, allow_unicode=True, width=110)

    @property
    def num_classes(self) -> int:
        """Number of classes that the network tells apart."""
        return len(self.labels)

    @property
    def heads(self) -> Heads:
        """Strides, anchors and grid sensitivity of the network."""
        return Heads.of(self.network, self.anchor_scales, self.scale_x_y)

    @property
    def eval_input_hw(self) -> tuple[int, int]:
        """(height, width) of the network's input in evaluation."""
        if self.testing_shape != "":
            return (self.testing_shape, self.testing_shape)
        return tuple(self.test_img_shape)

    @property
    def train_shapes(self) -> list[tuple[int, int]]:
        """(height, width) shapes that training draws from; one where training_shape is fixed."""
        if self.training_shape != "":
            return [(self.training_shape, self.training_shape)]
        return [tuple(shape) for shape in self.multi_scale]


def load_config(
    argv: list[str] | None = None,
    entry_point: str = "",
    description: str = "",
) -> Config:
    """Resolve the options of an entry point.

    Args:
        argv: command line without the program's name; None takes that of the process.
        entry_point: its name in the table of the default file. Options that act in another one are then left out
            of `--help` and refused on the command line. Empty: all options.
        description: what the entry point does, for `--help`.

    Raises:
        UserError: unknown key, wrong type, value that is not allowed, an impossible combination, or an option
            without effect here.
    """
    declared = read_declared()
    defaults, aliases = declared.values, names.aliases_of(entry_point)
    given = parse_command_line(argv, declared, entry_point, description, aliases)
    values, origins, remarks = dict(defaults), dict.fromkeys(defaults, "default"), []
    config_path = given.pop("config_path", "")
    if config_path:
        document, remarks = read_options(config_path, declared, entry_point)
        for key, raw in document.items():
            key = known_key(key, defaults, aliases, f"{config_path}: ")
            values[key] = convert(key, raw, defaults[key], f"{config_path}: ")
            origins[key] = config_path
    print_config = given.pop("print_config", None)
    options, left_out = names.expand(given, "--", entry_point)
    remarks += without_counterpart(left_out, "command line")
    for key, raw in options.items():
        values[key] = convert(key, raw, defaults[key], "--")
        origins[key] = "command line"
    for key, rule in declared.allowed.items():
        check_allowed(key, values[key], rule, origins[key])
    values |= _of_network(declared, values["network"], origins)
    config = _check_combinations(Config(values, origins))
    remarks += _remarks(config, defaults)
    meant = {name: tuple(names.expand({name: raw}, "--", entry_point)[0]) for name, raw in given.items()}
    if entry_point and (without := declared.without_effect(meant, entry_point)):
        if not config.enable_modelarts:
            raise UserError(without)
        remarks.append(without)
    for remark in remarks:
        print(f"warning: {remark}", file=sys.stderr)
    if print_config is not None and convert("print_config", print_config, False, "--"):
        width = max(map(len, config))
        for key in config:
            print(f"{key:<{width}} = {config[key]!r}  ({config.origins[key]})")
        raise SystemExit(0)
    return config


def _remarks(config: Config, defaults: Mapping[str, Any]) -> list[str]:
    """What was set and has no effect beside the rest of the options."""
    remarks = [
        f"{key} ({config.origins[key]}): the launcher sets it, {config[key]} has no effect"
        for key in ("rank", "group_size")
        if config[key] != defaults[key]
    ]
    if config.use_modelarts and not config.enable_modelarts:
        remarks.append(
            f"use_modelarts ({config.origins['use_modelarts']}): none of {', '.join(ADDRESSES)} is set, so the "
            "run is on this machine alone"
        )
    return remarks


def overlay(config: Config, values: Mapping[str, Any], origin: str) -> Config:
    """The options with values from a file laid over them, checked as those of a YAML are.

    Raises:
        UserError: wrong type, value that is not allowed or an impossible combination; names `origin`.
    """
    declared = read_declared()
    values = {key: convert(key, raw, declared.values[key], f"{origin}: ") for key, raw in values.items()}
    for key in values:
        if key in declared.allowed:
            check_allowed(key, values[key], declared.allowed[key], origin)
    origins = {**config.origins, **dict.fromkeys(values, origin)}
    if values.get("network", config.network) != config.network:
        values = {**_of_network(declared, values["network"], origins), **values}
    return _check_combinations(Config({**config, **values}, origins))


def _of_network(declared: Declared, network: str, origins: Mapping[str, str]) -> dict[str, Any]:
    """The defaults that a network has of its own, of the options that nobody has set."""
    return {key: value for key, value in declared.defaults_of(network).items() if origins[key] == "default"}


def _check_combinations(config: Config) -> Config:
    """Checks that need more than one option; returns the config with implied values filled in."""
    stride, levels = STRIDES_OF[config.network][0], len(STRIDES_OF[config.network])
    for key in ("multi_scale", "test_img_shape"):
        shapes = config[key] if key == "multi_scale" else [config[key]]
        for shape in shapes:
            if len(shape) != 2 or any(not stride <= side <= LARGEST_SIDE or side % stride for side in shape):
                raise UserError(
                    f"{key}: {shape} must be [height, width], both multiples of {stride} up to {LARGEST_SIDE}"
                )
    for key in ("training_shape", "testing_shape"):
        if config[key] != "" and (not stride <= config[key] <= LARGEST_SIDE or config[key] % stride):
            raise UserError(
                f"{key}: {config[key]} is not a multiple of {stride} up to {LARGEST_SIDE} (for example 416 or 608)"
            )
    for key, length in (
        ("backbone_input_shape", 5),
        ("backbone_shape", 5),
        ("backbone_layers", 5),
        ("anchor_scales", ANCHORS_A_CELL * levels),
        ("scale_x_y", levels),
        ("image_mean", 3),
        ("image_std", 3),
        ("bbox_class_loss_coff", 3),
        ("detect_head_loss_coff", levels),
    ):
        if len(config[key]) != length:
            of = f" for network {config.network}" if config.network != "yolov4" else ""
            raise UserError(f"{key}: needs {length} entries{of}, found {len(config[key])}")
    if config.network != "yolov4":
        published = read_declared().values
        for key in OF_YOLOV4:
            if config[key] != published[key]:
                raise UserError(
                    f"{key}: {config[key]} ({config.origins[key]}) has no effect in network {config.network}; "
                    "leave it out"
                )
    if min(config.image_std) <= 0:
        raise UserError(f"image_std: {config.image_std} must be positive numbers")
    duplicates = {name for name in config.labels if config.labels.count(name) > 1}
    if duplicates:
        raise UserError(f"labels: named twice: {', '.join(sorted(duplicates))}")
    try:
        [int(epoch) for epoch in config.lr_epochs.split(",") if epoch.strip()]
    except ValueError:
        raise UserError(f"lr_epochs: {config.lr_epochs!r} must be epochs separated by commas") from None
    if config.per_batch_size % config.accumulate:
        raise UserError(
            f"accumulate: {config.accumulate} parts do not divide per_batch_size {config.per_batch_size}"
        )
    sides = max(map(sum, config.train_shapes))
    if config.augmentation == "perspective" and config.perspective_warp * sides > 0.9:
        raise UserError(
            f"perspective_warp: {config.perspective_warp} bends mosaics of the largest training shape over the "
            f"horizon; take at most {0.9 / sides:.5f}"
        )
    if config.cmbn and (config.accumulate == 1 or config.sync_bn):
        raise UserError(
            "cmbn: it is over the parts of accumulate, set that to 2 or more; and sync_bn to False"
        )
    changes: dict[str, Any] = {}
    if config.mosaic is True:  # as a number it is a probability
        changes["mosaic"] = 0.5 if config.augmentation == "crop" else 1.0
    if config.lr_scheduler in ("linear", "cosine_annealing") and config.t_max < config.max_epoch:
        changes["t_max"] = config.max_epoch
    if config.use_modelarts and any(config[key] for key in ADDRESSES):
        changes["enable_modelarts"] = True
    if not config.eval_batch_size:
        changes["eval_batch_size"] = config.per_batch_size
    if config.transfer_train and not config.filter_weight:
        changes["filter_weight"] = True
    return config.replace(**changes) if changes else config


def run_program(run: Callable[[Config], int | None], argv: list[str] | None = None, **kwargs: str) -> int:
    """Call `run` with the options of a command line; the exit code.

    A user's mistake becomes one line on standard error and exit code 2. Arguments as of `load_config`.
    """

    @reports_mistakes
    def reported() -> int | None:
        return run(load_config(argv, **kwargs))

    return reported() or 0
