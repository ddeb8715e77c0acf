"""Parameters that the golden files were computed with, filled from their names."""

import zlib

import mindspore as ms
import numpy as np


def golden_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of one parameter, by the rule in tests/fixtures/README.md."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit(".", 1)[-1]
    if kind in ("gamma", "moving_variance"):
        values = rng.uniform(0.5, 1.5, shape)
    elif kind in ("beta", "moving_mean", "bias"):
        values = rng.normal(0, 0.1, shape)
    else:
        values = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
    return values.astype(np.float32)


def fill_golden(network: ms.nn.Cell) -> None:
    """Set all parameters of a network, those that are not trained as well."""
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(golden_values(parameter.name, parameter.shape)))
