"""What belongs together in a block of a drawn scene: a car park, a marina, houses in gardens, and the roads between."""

import math

import numpy as np

from . import objects
from .blocks import ASPHALT, CONCRETE, GRASS, SOIL, WATER, Block, Scene
from .canvas import ellipse, rectangle, rotated, shade


def road(scene: Scene, strip: Block, is_horizontal: bool) -> None:
    """Asphalt with kerbs, a dashed middle line, and traffic on both lanes."""
    rng, canvas = scene.rng, scene.canvas
    canvas.fill(strip.corners, shade(CONCRETE, 0.95))
    canvas.fill(strip.inset(4).corners, shade(ASPHALT, rng.uniform(0.8, 1.1)))
    length, width = (strip.w, strip.h) if is_horizontal else (strip.h, strip.w)
    start = np.array([strip.x, strip.y + strip.h / 2] if is_horizontal else [strip.x + strip.w / 2, strip.y])
    along = np.array([1.0, 0.0] if is_horizontal else [0.0, 1.0])
    aside = along[::-1]
    for at in np.arange(10, length - 10, 26):
        canvas.line(np.array([start + along * at, start + along * (at + 12)]), (214, 210, 190), 1.0)
    for lane in (-1, 1):
        at = rng.uniform(20, 120)
        while at < length - 40:
            is_truck = rng.random() < 0.18
            size = rng.uniform(58, 82) if is_truck else rng.uniform(22, 27)
            centre = start + along * (at + size / 2) + aside * lane * width * 0.22
            angle = math.atan2(along[1], along[0]) + (0 if lane > 0 else math.pi) + rng.normal(0, 0.03)
            _vehicle(scene, centre, angle, size, is_truck)
            at += size + rng.exponential(300) + 14


def _vehicle(scene: Scene, centre, angle: float, size: float, is_truck: bool) -> None:
    name, draw = ("large-vehicle", objects.truck) if is_truck else ("small-vehicle", objects.car)
    outline = rotated(rectangle(size, size * (0.22 if is_truck else 0.44)), centre, angle)
    scene.add(name, draw, centre, angle, size, shadow=outline, height=0.5 if is_truck else 0.3)


def _car_park(scene: Scene, block: Block) -> None:
    """Rows of marked places, most of them taken."""
    rng, canvas = scene.rng, scene.canvas
    canvas.fill(block.inset(6).corners, shade(ASPHALT, rng.uniform(0.85, 1.25)))
    area, length = block.inset(24), rng.uniform(22, 27)
    place, filling = length * 0.62, rng.uniform(0.35, 0.9)
    y = area.y
    while y + 2 * length < area.y + area.h:
        for row in (0, 1):
            for x in np.arange(area.x, area.x + area.w - place, place):
                low = y + row * length
                canvas.line(np.array([(x, low), (x, low + length)]), (206, 206, 200), 0.8)
                if rng.random() < filling:
                    centre = (x + place / 2 + rng.normal(0, 0.6), low + length / 2 + rng.normal(0, 1.2))
                    angle = (math.pi / 2 if rng.random() < 0.5 else -math.pi / 2) + rng.normal(0, 0.03)
                    _vehicle(scene, centre, angle, length * rng.uniform(0.88, 0.98), False)
        y += 2 * length + rng.uniform(34, 42)


def _yard(scene: Scene, block: Block) -> None:
    """Lorries parked in rows beside a hall."""
    rng, canvas = scene.rng, scene.canvas
    canvas.fill(block.inset(6).corners, shade(CONCRETE, rng.uniform(0.75, 1.0)))
    area = block.inset(20)
    hall = Block(area.x, area.y, area.w, area.h * 0.36)
    _roof(scene, hall, [(196, 198, 200), (150, 158, 168), (176, 120, 100)][rng.integers(3)])
    length = rng.uniform(60, 84)
    y = hall.y + hall.h + 16
    while y + length < area.y + area.h:
        for x in np.arange(area.x + 14, area.x + area.w - 14, length * 0.36):
            if rng.random() < 0.66:
                angle = -math.pi / 2 + rng.normal(0, 0.02)
                _vehicle(scene, (x, y + length / 2), angle, length * rng.uniform(0.85, 1.0), True)
        y += length + rng.uniform(44, 60)


def _roof(scene: Scene, block: Block, colour) -> None:
    """A flat hall or a pitched roof, with its shadow; a distractor, not an object."""
    rng, canvas = scene.rng, scene.canvas
    canvas.cast(block.corners, 1.4)
    drawn = [(block.corners, colour)]
    if block.w > block.h:
        drawn.append((Block(block.x, block.y, block.w, block.h / 2).corners, shade(colour, 0.84)))
    else:
        drawn.append((Block(block.x, block.y, block.w / 2, block.h).corners, shade(colour, 0.84)))
    for _ in range(int(block.w * block.h / 9000)):
        spot = rng.uniform((block.x + 10, block.y + 10), (block.x + block.w - 10, block.y + block.h - 10))
        drawn.append((rectangle(*rng.uniform(6, 14, 2)) + spot, shade(colour, rng.choice([0.6, 1.18]))))

    def draw():
        for points, tone in drawn:
            canvas.fill(points, tone)
        return np.full((4, 2), -1e6)  # never in the image: no label

    scene.waiting.append(("", draw))


def _tree(scene: Scene, centre, radius: float) -> None:
    rng, canvas = scene.rng, scene.canvas
    canvas.cast(ellipse(2 * radius, 2 * radius, 12) + centre, 0.6)
    tone = shade((52, 82, 44), rng.uniform(0.75, 1.25))
    lumps = [(rng.normal(0, radius * 0.4, 2), radius * rng.uniform(0.7, 1.2)) for _ in range(6)]

    def draw():
        for rank, (shift, size) in enumerate(lumps):
            canvas.fill(ellipse(size * 1.5, size * 1.4, 14) + centre + shift, shade(tone, 0.85 + 0.07 * rank))
        return np.full((4, 2), -1e6)

    scene.waiting.append(("", draw))


def _trees(scene: Scene, block: Block, count: int) -> None:
    for _ in range(count):
        spot = scene.rng.uniform((block.x, block.y), (block.x + block.w, block.y + block.h))
        _tree(scene, spot, scene.rng.uniform(7, 16))


def _green(scene: Scene, block: Block) -> None:
    """A park or a ploughed field."""
    rng, canvas = scene.rng, scene.canvas
    tone = shade([GRASS, SOIL, (120, 128, 70)][rng.integers(3)], rng.uniform(0.9, 1.1))
    canvas.fill(block.corners, tone)
    if rng.random() < 0.5:
        for x in np.arange(block.x + 8, block.x + block.w - 4, 9):
            canvas.line(np.array([(x, block.y + 6), (x, block.y + block.h - 6)]), shade(tone, 0.93), 2.5)
    _trees(scene, block.inset(12), int(rng.integers(4, 26)))


def _houses(scene: Scene, block: Block) -> None:
    """Houses in gardens; some have a pool, most a car."""
    rng = scene.rng
    scene.canvas.fill(block.corners, shade(GRASS, rng.uniform(0.9, 1.15)))
    columns, rows = max(2, int(block.w / 135)), max(2, int(block.h / 150))
    w, h = block.w / columns, block.h / rows
    for column in range(columns):
        for row in range(rows):
            plot = Block(block.x + column * w, block.y + row * h, w, h).inset(7)
            house = Block(
                plot.x + 4, plot.y + 4, plot.w * rng.uniform(0.48, 0.6), plot.h * rng.uniform(0.36, 0.46)
            )
            _roof(
                scene,
                house,
                [(166, 98, 76), (132, 104, 92), (112, 116, 122), (176, 150, 120)][rng.integers(4)],
            )
            if rng.random() < 0.85:
                length = rng.uniform(38, 56)
                centre = (plot.x + plot.w * 0.42, plot.y + plot.h * 0.78)
                scene.add("swimming-pool", objects.swimming_pool, centre, rng.choice([0.0, math.pi]), length)
            if rng.random() < 0.5:
                drive = Block(plot.x + plot.w * 0.74, plot.y, 18, plot.h * 0.5)
                scene.canvas.fill(drive.corners, CONCRETE)
                centre = (drive.x + 9, drive.y + drive.h * 0.55)
                _vehicle(scene, centre, math.pi / 2 + rng.normal(0, 0.04), rng.uniform(22, 27), False)
            _tree(scene, (plot.x + plot.w * 0.86, plot.y + plot.h * 0.82), rng.uniform(7, 13))


def _courts(scene: Scene, block: Block) -> None:
    """Tennis and basketball courts side by side."""
    rng = scene.rng
    scene.canvas.fill(block.corners, shade(GRASS, rng.uniform(0.85, 1.1)))
    area = block.inset(12)
    length = min(rng.uniform(125, 168), area.h - 6)
    y = area.y
    while y + length <= area.y + area.h:
        x = area.x
        while True:
            is_tennis = rng.random() < 0.55
            width = length * (0.5 if is_tennis else 17 / 30)
            if x + width > area.x + area.w:
                break
            name, draw = (
                ("tennis-court", objects.tennis_court)
                if is_tennis
                else ("basketball-court", objects.basketball_court)
            )
            scene.add(name, draw, (x + width / 2, y + length / 2), math.pi / 2, length)
            x += width + rng.uniform(10, 30)
        y += length + rng.uniform(14, 30)
    _trees(scene, Block(area.x, area.y + area.h - 4, area.w, 8), 5)


def _ball_park(scene: Scene, block: Block) -> None:
    """Baseball diamonds back to back."""
    rng = scene.rng
    scene.canvas.fill(block.corners, shade(GRASS, rng.uniform(0.95, 1.15)))
    side = min(rng.uniform(105, 150), block.w - 20, block.h - 20)
    for x in np.arange(block.x + 10, block.x + block.w - side, side + 14):
        for y in np.arange(block.y + 10, block.y + block.h - side, side + 14):
            turn = math.pi / 2 * rng.integers(4)
            centre = (x + side / 2, y + side / 2)
            scene.add("baseball-diamond", objects.baseball_diamond, centre, turn, side)


def _tanks(scene: Scene, block: Block) -> None:
    """Storage tanks in bunds."""
    rng, canvas = scene.rng, scene.canvas
    canvas.fill(block.inset(4).corners, shade([SOIL, CONCRETE][rng.integers(2)], rng.uniform(0.85, 1.05)))
    area, diameter = block.inset(14), rng.uniform(46, 96)
    pitch = diameter * rng.uniform(1.28, 1.5)
    for x in np.arange(area.x, area.x + area.w - diameter, pitch):
        for y in np.arange(area.y, area.y + area.h - diameter, pitch):
            if rng.random() < 0.12:
                continue
            size = diameter * rng.uniform(0.86, 1.0)
            centre = np.array([x, y]) + diameter / 2
            canvas.line(rectangle(pitch * 0.96, pitch * 0.96) + centre, shade(SOIL, 0.8), 2.0, closed=True)
            outline = ellipse(size, size, 24) + centre
            scene.add("storage-tank", objects.storage_tank, centre, size, shadow=outline, height=1.5)


def _apron(scene: Scene, block: Block) -> None:
    """Aircraft on their stands, with yellow guide lines and service vehicles."""
    rng, canvas = scene.rng, scene.canvas
    canvas.fill(block.inset(2).corners, shade(CONCRETE, rng.uniform(0.85, 1.05)))
    for x in np.arange(block.x, block.x + block.w, 60):
        canvas.line(np.array([(x, block.y), (x, block.y + block.h)]), shade(CONCRETE, 0.88), 0.7)
    area, length = block.inset(10), rng.uniform(95, 150)
    facing = rng.choice([-1.0, 1.0]) * math.pi / 2
    for y in np.arange(area.y + length / 2, area.y + area.h - length / 2, length * 1.12):
        for x in np.arange(area.x + length / 2, area.x + area.w - length / 2, length * 1.06):
            canvas.line(np.array([(x, y - length * 0.55), (x, y + length * 0.55)]), (204, 176, 60), 1.2)
            if rng.random() < 0.8:
                size = length * rng.uniform(0.8, 1.0)
                angle = facing + rng.normal(0, 0.08)
                objects.plane_shadow(canvas, (x, y), angle, size)
                scene.add("plane", objects.plane, (x, y), angle, size)
                if rng.random() < 0.5:
                    _vehicle(scene, (x + 0.43 * length, y - 0.36 * length), rng.uniform(0, 6.3), 24, False)


def _marina(scene: Scene, block: Block) -> None:
    """Piers with boats moored side by side."""
    rng, canvas = scene.rng, scene.canvas
    _water(scene, block)
    length = rng.uniform(48, 86)
    y = block.y + length + 8
    while y + length + 12 < block.y + block.h:
        pier = Block(block.x + 6, y, block.w - 12, 12)
        canvas.cast(pier.corners, 0.15)
        canvas.fill(pier.corners, shade((168, 150, 126), rng.uniform(0.85, 1.1)))
        for side, heading in ((-1, -math.pi / 2), (1, math.pi / 2)):
            x = block.x + 22
            while x < block.x + block.w - 22:
                size = length * rng.uniform(0.72, 1.0)
                if rng.random() < 0.85:
                    centre = (x, y + 6 + side * (8 + size / 2))
                    _ship(scene, centre, heading + rng.normal(0, 0.05), size)
                x += length * rng.uniform(0.36, 0.48)
        y += 2 * length + 12 + rng.uniform(16, 44)


def _quay(scene: Scene, block: Block) -> None:
    """Open water along a quay: large ships moored, others under way."""
    rng, canvas = scene.rng, scene.canvas
    _water(scene, block)
    canvas.fill(Block(block.x, block.y, block.w, 26).corners, shade(CONCRETE, 0.9))
    x = block.x + 10
    while x < block.x + block.w - 130:
        size = min(rng.uniform(130, 230), block.x + block.w - x)
        _ship(scene, (x + size / 2, block.y + 56), rng.choice([0, math.pi]) + rng.normal(0, 0.02), size)
        x += size + rng.uniform(14, 50)
    for y in np.arange(block.y + 150, block.y + block.h - 60, 90):
        size = rng.uniform(55, 130)
        centre = (rng.uniform(block.x + 90, block.x + block.w - 90), y)
        _ship(scene, centre, rng.uniform(0, 2 * math.pi), size, wake=size < 90)


def _water(scene: Scene, block: Block) -> None:
    rng, canvas = scene.rng, scene.canvas
    tone = shade(WATER, rng.uniform(0.75, 1.3))
    canvas.fill(block.corners, tone)
    for _ in range(140):
        start = rng.uniform((block.x, block.y), (block.x + block.w - 30, block.y + block.h))
        canvas.line(np.array([start, start + (rng.uniform(8, 30), rng.normal(0, 2))]), shade(tone, 1.1), 1.0)


def _ship(scene: Scene, centre, angle: float, size: float, wake: bool = False) -> None:
    outline = rotated(objects.hull(size, size * 0.26), centre, angle)
    scene.add("ship", objects.ship, centre, angle, size, shadow=outline, height=0.4, wake=wake)


# What fills a block, by the names of the themes.
ZONES = {
    "car_park": _car_park,
    "yard": _yard,
    "green": _green,
    "houses": _houses,
    "courts": _courts,
    "ball_park": _ball_park,
    "tanks": _tanks,
    "apron": _apron,
    "marina": _marina,
    "quay": _quay,
}
