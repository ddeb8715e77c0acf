"""MindYOLO's parameter names: which of ours each of them is.

MindYOLO numbers its layers through (`model.model.0.conv.weight`). Its BatchNorm adds 0.001 to the variance; what
ours adds less (0.00099 by default, nothing under its recipe) goes into the moving variance, so that the network
computes the same.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from ..layers.batch_norm import EPSILON

MINDYOLO_EPSILON = 1e-3
_NAME = re.compile(
    r"(?:ema\.)?model\.model\.(?P<place>\d[\w.]*?)\."
    r"(?P<part>conv\.weight|bn\.(?:gamma|beta|moving_mean|moving_variance)|weight|bias)"
)
_RESIDUALS = re.compile(r"(?P<layer>10|17|24|31)\.(?:(?P<number>\d+)\.)?(?P<convolution>conv[12])")
_OUR_BACKBONE = re.compile(r"(?P<place>conv\d+|layer\d\.\d+\.conv[12])\.(?P<kind>[01])\.(?P<last>\w+)")
_LAYER_OF = {"10": "layer2", "17": "layer3", "24": "layer4", "31": "layer5"}


def is_mindyolo(names: Iterable[str]) -> bool:
    """Whether these are the parameter names of a MindYOLO network with this backbone."""
    return any(our_name(name) is not None for name in names)


def our_name(name: str) -> str | None:
    """Our name of one of MindYOLO's parameters; None where it is none of YOLOv4's."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    place, part = found["place"], found["part"]
    residual = _RESIDUALS.fullmatch(place)
    if residual:
        number, convolution = residual["number"] or "0", residual["convolution"]
        place = f"backbone.{_LAYER_OF[residual['layer']]}.{number}.{convolution}"
    else:
        place = _places().get(place)
    if place is None:
        return None
    kind, _, last = part.rpartition(".")
    middle = {"conv": "0.", "bn": "1.", "": ""}[kind]
    return f"feature_map.{place}.{middle}{last}"


def mindyolo_name(name: str) -> str | None:
    """MindYOLO's name of one of our backbone's parameters (`conv0.0.weight`); None where it is none of them."""
    found = _OUR_BACKBONE.fullmatch(name)
    if not found:
        return None
    place, kind, last = found["place"], {"0": "conv", "1": "bn"}[found["kind"]], found["last"]
    if place.startswith("layer"):
        layer, rest = place.split(".", 1)
        numbers = [number for number, ours in _LAYER_OF.items() if ours == layer]
        place = f"{numbers[0]}.{rest}" if numbers else None
    else:
        place = {ours: number for number, ours in _places().items()}.get(f"backbone.{place}")
    return f"model.model.{place}.{kind}.{last}" if place else None


def translate(
    values: Mapping[str, np.ndarray], epsilon: float = EPSILON
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """MindYOLO's parameters under our names, for a network of ours.

    Args:
        values: the parameters of a MindYOLO checkpoint.
        epsilon: what the network's BatchNorm adds to the variance.

    Returns:
        The values by our names, those that are no parameters of YOLOv4 (an optimizer's, for example) as they
        were; and for each translated one MindYOLO's name.
    """
    translated, sources = {}, {}
    for name, value in values.items():
        ours = our_name(name)
        if ours is None:
            translated[name] = value
        else:
            translated[ours], sources[ours] = value, name
    return fold_epsilon(translated, MINDYOLO_EPSILON, epsilon), sources


def fold_epsilon(values: Mapping[str, np.ndarray], theirs: float, ours: float) -> dict[str, np.ndarray]:
    """Values for BatchNorm that adds `ours` to the variance, of a network whose BatchNorm adds `theirs`.

    What theirs adds more goes into the moving variance; what it adds less into gamma, as a variance is not negative.
    """
    folded = dict(values)
    if theirs > ours:
        for name in values:
            if name.endswith(".moving_variance"):
                folded[name] = values[name] + np.float32(theirs - ours)
    elif theirs < ours:
        for name in values:
            if name.endswith(".gamma"):
                variance = values[name.removesuffix("gamma") + "moving_variance"].astype(np.float64)
                factor = np.sqrt((variance + ours) / (variance + theirs))
                folded[name] = (values[name] * factor).astype(np.float32)
    return folded


@cache
def _places() -> dict[str, str]:
    """Place of each convolution, apart from the residual blocks': MindYOLO's number -> our cell."""
    places = {"0": "conv0", "1": "conv1", "2": "conv2", "3.conv1": "conv3", "3.conv2": "conv4"}
    places |= {"4": "conv5", "5": "conv6", "7": "conv7"}
    for stage in range(4):  # down, into, (residual blocks), out, past, (joint), join
        for number, step in enumerate((0, 1, 3, 4, 6)):
            places[str(8 + 7 * stage + step)] = f"conv{8 + 5 * stage + number}"
    places = {number: f"backbone.{cell}" for number, cell in places.items()}
    neck = {"36.conv1": 1, "36.conv2": 2, "37": 3, "42": 4, "43": 5, "44": 6, "45": 7, "47": 8}
    neck |= {"51": 9, "53": 10, "58": 11, "63": 12}
    places |= {number: f"conv{ours}" for number, ours in neck.items()}
    for block, pairs, last in ((0, 49, "50"), (1, 55, "56"), (2, 60, "61"), (3, 65, "65.2.conv1")):
        for number in range(4):
            places[f"{pairs}.{number // 2}.conv{number % 2 + 1}"] = f"backblock{block}.conv{number}"
        places[last] = f"backblock{block}.conv4"
    places |= {"57": "backblock1.conv5", "62": "backblock2.conv5", "65.2.conv2": "backblock3.conv5"}
    places |= {f"66.m.{level}": f"backblock{3 - level}.conv6" for level in range(3)}
    return places
