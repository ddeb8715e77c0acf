"""The layer lists of MindYOLO's YOLOv4 YAML: checked against the network that is built here."""

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, shown

ACTIVATIONS = {"nn.Mish()": "mish", "nn.LeakyReLU(0.1)": "leaky", "nn.SiLU()": "silu"}
DEFAULT_ACTIVATION = "silu"
WIDTHS, BLOCKS = (64, 128, 256, 512, 1024), (1, 2, 8, 8, 4)


def network_options(network: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Options of a `network` section, and its keys without a counterpart.

    Raises:
        UserError: it describes another network than YOLOv4; names the key or the row.
    """
    for key, expected in (
        ("model_name", "yolov4"), ("depth_multiple", 1.0), ("width_multiple", 1.0), ("stride", [32, 16, 8]),
    ):  # fmt: skip
        if network.get(key, expected) != expected:
            raise UserError(
                f"{where}network.{key}: {shown(network[key])}; YOLOv4, the network that is built here, has {expected}"
            )
    options = {"lateral_kernel": 3, "downsample_padding": "symmetric"}
    if "anchors" in network:
        options["anchor_scales"] = _anchors(network["anchors"], where)
    for part, expected, option in (
        ("backbone", backbone_rows(), "backbone_activation"),
        ("head", head_rows(), "neck_activation"),
    ):
        if part in network:
            options[option] = _check_rows(network[part], expected, f"{where}network.{part}")
    known = ("model_name", "depth_multiple", "width_multiple", "stride", "anchors", "backbone", "head")
    return options, [f"network.{key}" for key in network if key not in known]


def _anchors(anchors: Any, where: str) -> list:
    """Nine anchors of strides 32, 16, 8, three pairs or six numbers a stride, in our order: strides 8, 16, 32."""
    flat = [number for entry in anchors for number in entry] if isinstance(anchors, list) else []
    if len(flat) != 18:
        raise UserError(
            f"{where}network.anchors: nine pairs of width and height are needed, for strides 32, 16, 8"
        )
    pairs = [flat[i : i + 2] for i in range(0, 18, 2)]
    return pairs[6:] + pairs[3:6] + pairs[:3]


def backbone_rows() -> list:
    """CSPDarknet53 as rows [from, number, module, arguments], without activations."""
    rows = [_conv(32, 3)]
    for width, blocks in zip(WIDTHS, BLOCKS):
        inner = width if blocks == 1 else width // 2
        rows += [
            _conv(width, 3, 2),
            _conv(inner, 1),
            [-1, blocks, "Bottleneck" if blocks == 1 else "Residualblock", [inner]],
            _conv(inner, 1),
            _conv(inner, 1, 1, len(rows)),
            _concat(-2, -1),
            _conv(width, 1),
        ]
    return rows


def head_rows() -> list:
    """SPP, PANet and heads as `backbone_rows`."""
    small, medium, large = WIDTHS[2:]
    pools = [[-number, 1, "nn.MaxPool2d", [side, 1, "same"]] for number, side in ((1, 5), (2, 9), (3, 13))]
    rows = [
        _stack(large, 1),
        _conv(medium, 1),
        *pools,
        _concat(-1, -2, -3, -4),
        _conv(medium, 1),
        _conv(large, 3),
    ]
    rows += [_conv(medium, 1)]
    for source, kernel, width in ((28, 1, small), (21, 3, small // 2)):
        upsample = [-1, 1, "Upsample", ["None", 2, "nearest"]]
        rows += [_conv(width, kernel), upsample, _conv(width, 1, 1, source), _concat(-2, -1)]
        rows += [_stack(2 * width, 2), _conv(width, 1)]
    for width, back, depth in ((small, -9, 2), (medium, -20, 3)):
        rows += [_conv(width, 3), _conv(width, 3, 2, -2), _concat(-1, back), _stack(2 * width, depth)]
        rows += [_conv(width, 1)] if depth == 2 else []
    return [*rows, [[-1, -4, -9], 1, "YOLOv4Head", ["nc", "anchors"]]]


def _conv(width: int, kernel: int, stride: int = 1, source: int = -1) -> list:
    return [source, 1, "ConvNormAct", [width, kernel, stride]]


def _stack(width: int, number: int) -> list:
    return [-1, number, "Bottleneck", [width, False]]


def _concat(*sources: int) -> list:
    return [list(sources), 1, "Concat", [1]]


def _check_rows(rows: Any, expected: list, where: str) -> str:
    """The activation of the rows; they must be the expected ones."""
    activations = set()
    for number, wanted in enumerate(expected):
        row = rows[number] if isinstance(rows, list) and number < len(rows) else None
        plain = row
        if isinstance(row, list) and len(row) == 4 and isinstance(row[3], list):
            named = [each[4:] for each in row[3] if isinstance(each, str) and each.startswith("act=")]
            plain = [*row[:3], [each for each in row[3] if not str(each).startswith("act=")]]
            if row[2] in ("ConvNormAct", "Bottleneck", "Residualblock"):
                activations.add(named[0] if named else "")
        if plain != wanted:
            raise UserError(
                f"{where}: row {number} is {shown(row, 120)}, YOLOv4 has {wanted}; no other network is built here"
            )
    if len(rows) != len(expected):
        raise UserError(
            f"{where}: {len(rows)} rows, YOLOv4 has {len(expected)}; no other network is built here"
        )
    found = {ACTIVATIONS.get(each, each) if each else DEFAULT_ACTIVATION for each in activations}
    if len(found) != 1 or not found <= set(ACTIVATIONS.values()):
        raise UserError(
            f"{where}: activations {shown(sorted(found))}; one of {', '.join(ACTIVATIONS)} for all rows"
        )
    return found.pop()
