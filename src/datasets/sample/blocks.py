"""What zones of a drawn scene are made in: a block of ground, the scene in the making, the ground's colours."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..dota_labels import DotaObject
from .canvas import Canvas, rectangle

GRASS, SOIL, ASPHALT, CONCRETE, WATER = (
    (98, 118, 72),
    (150, 134, 104),
    (92, 94, 98),
    (158, 156, 150),
    (44, 74, 88),
)


@dataclass(frozen=True)
class Block:
    """A rectangle of the layout, in scene pixels."""

    x: float
    y: float
    w: float
    h: float

    @property
    def corners(self) -> np.ndarray:
        """Its corners (4, 2)."""
        return rectangle(self.w, self.h) + (self.x + self.w / 2, self.y + self.h / 2)

    def inset(self, margin: float) -> "Block":
        """The block less a margin on each side."""
        return Block(self.x + margin, self.y + margin, self.w - 2 * margin, self.h - 2 * margin)


@dataclass
class Scene:
    """A scene in the making: ground is painted at once, objects wait until the shadows lie."""

    canvas: Canvas
    rng: np.random.Generator
    waiting: list[tuple[str, Callable[[], np.ndarray]]] = field(default_factory=list)

    def add(
        self, name: str, draw: Callable, centre, *args, shadow: np.ndarray | None = None, height=0.0, **kwargs
    ):
        """Draw an object later; its shadow, the one of the outline `shadow`, falls now."""
        if shadow is not None:
            self.canvas.cast(shadow, height)
        if name == "storage-tank":
            self.waiting.append((name, lambda: draw(self.canvas, self.rng, centre, *args, **kwargs)))
        else:
            angle, length = args
            self.waiting.append((name, lambda: draw(self.canvas, self.rng, centre, angle, length, **kwargs)))

    def finish(self) -> tuple[np.ndarray, list[DotaObject]]:
        """The image (H, W, 3) uint8 and the objects that it shows."""
        self.canvas.lay_shadows()
        labels = []
        for name, draw in self.waiting:
            outline = self.canvas.seen(draw())
            low, high = outline.min(axis=0), outline.max(axis=0)
            if (high > 1).all() and (low < self.canvas.size - 1).all():
                labels.append(DotaObject(outline, name, False))
        return self.canvas.develop(self.rng), labels
