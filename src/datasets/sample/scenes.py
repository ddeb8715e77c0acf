"""Drawn scenes, from a seed: themes, and the layout of blocks between roads that `src.datasets.sample.zones` fills."""

import math

import numpy as np

from ..dota_labels import DotaObject
from .blocks import GRASS, SOIL, Block, Scene
from .canvas import Canvas, fractal_noise
from .zones import ZONES, road

# How often each kind of block appears in a theme.
THEMES = {
    "town": {"houses": 5, "car_park": 1, "courts": 3, "green": 1, "ball_park": 2},
    "airport": {"apron": 7, "car_park": 1, "green": 1, "yard": 1, "ball_park": 1},
    "port": {"marina": 4, "quay": 4, "yard": 1, "tanks": 3},
    "industry": {"tanks": 4, "yard": 3, "car_park": 1, "apron": 2, "courts": 1},
    "leisure": {"courts": 4, "ball_park": 4, "houses": 3, "marina": 1},
}


def draw_scene(seed: int, size: int = 1080) -> tuple[np.ndarray, list[DotaObject]]:
    """A scene (size, size, 3) uint8 RGB and its objects; the same for the same seed."""
    rng = np.random.default_rng(seed)
    theme = THEMES[list(THEMES)[seed % len(THEMES)]]
    base = np.array([GRASS, SOIL][rng.choice(2, p=[0.7, 0.3])]) * rng.uniform(0.85, 1.1)
    broad, fine = fractal_noise(rng, size), fractal_noise(rng, size, (24, 8, 3))
    ground = np.clip(base * (1 + 0.22 * broad[..., None]), 0, 255).astype(np.uint8)
    sun_angle, sun_length = rng.uniform(0, 2 * math.pi), rng.uniform(7, 14)
    sun = (sun_length * math.cos(sun_angle), sun_length * math.sin(sun_angle))
    turn = rng.uniform(-0.06, 0.06) if rng.random() < 0.4 else rng.uniform(-math.pi, math.pi)
    scene = Scene(Canvas(ground, sun, turn), rng)
    reach = size * 0.22  # the layout is larger than the image, which is turned in it
    road_width = rng.uniform(34, 44)
    whole = Block(-reach, -reach, size + 2 * reach, size + 2 * reach)
    roads: list[tuple[Block, bool]] = []
    blocks = _split(rng, whole, road_width, roads)
    names, weights = list(theme), np.array(list(theme.values()), float)
    for block in blocks:
        ZONES[names[rng.choice(len(names), p=weights / weights.sum())]](scene, block)
    for strip, is_horizontal in roads:
        road(scene, strip, is_horizontal)
    scene.canvas.roughen(fine, 0.10)
    return scene.finish()


def _split(rng, block: Block, road: float, roads: list) -> list[Block]:
    """Blocks between roads, by cutting the longer side until the blocks are small enough."""
    smallest, longest = 230, 400
    across = block.w >= block.h
    side = block.w if across else block.h
    if side < 2 * smallest + road or (side < longest and rng.random() < 0.5):
        return [block]
    cut = rng.uniform(smallest, side - smallest - road)
    if across:
        first = Block(block.x, block.y, cut, block.h)
        second = Block(block.x + cut + road, block.y, block.w - cut - road, block.h)
        roads.append((Block(block.x + cut, block.y, road, block.h), False))
    else:
        first = Block(block.x, block.y, block.w, cut)
        second = Block(block.x, block.y + cut + road, block.w, block.h - cut - road)
        roads.append((Block(block.x, block.y + cut, block.w, road), True))
    return _split(rng, first, road, roads) + _split(rng, second, road, roads)
