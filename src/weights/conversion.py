"""What a reader of weights hands on: parameters by our names, where each came from, and what to know."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import UserError


@dataclass
class Conversion:
    """Parameters of the network, or of its first layers.

    Attributes:
        path: the file they came from.
        values: arrays by our names.
        sources: for each of them its name or place in the file.
        notes: what a user must know, a phrase each.
    """

    path: Path
    values: dict[str, np.ndarray] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: np.ndarray, source: str) -> None:
        """Take over one parameter.

        Raises:
            UserError: values that no network has: not finite, or a negative variance.
        """
        if not np.isfinite(value).all() or (name.endswith("moving_variance") and (value < 0).any()):
            raise UserError(
                f"{self.path}: {source}, which would be {name}, holds values that are not finite or negative "
                "variances; the file is damaged, or its layers are in another order than Darknet's"
            )
        self.values[name], self.sources[name] = np.ascontiguousarray(value, np.float32), source

    def table(self) -> str:
        """One line a parameter: our name, its shape, where it came from; tabs between."""
        lines = ["parameter\tshape\tsource"]
        lines += [f"{name}\t{value.shape}\t{self.sources[name]}" for name, value in self.values.items()]
        return "\n".join(lines) + "\n"
