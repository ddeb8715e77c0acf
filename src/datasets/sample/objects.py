"""Aerial objects: each function draws one and returns its outline (4, 2), the oriented box of its label.

Sizes are scene pixels. Every object is drawn in its own frame, x forwards, and turned into the scene.
"""

import math

import numpy as np

from .canvas import Canvas, ellipse, rectangle, rotated, shade

CAR_COLOURS = (
    (235, 235, 235), (200, 203, 206), (150, 153, 156), (60, 62, 66), (30, 31, 34), (150, 30, 28),
    (40, 62, 120), (120, 125, 110), (196, 178, 140), (90, 20, 24),
)  # fmt: skip
GLASS = (38, 46, 56)


def plane_shadow(canvas: Canvas, centre, angle, length) -> None:
    """Shadow of an aircraft: of fuselage and wings apart, as they are thin."""
    for part in (_fuselage(length), *_wings(length)):
        outline = rotated(part, centre, angle) + canvas.sun * 0.5
        canvas.cast(outline, 0.12)


def plane(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """An airliner: fuselage, swept wings with engines, tail."""
    body = shade((238, 240, 243), rng.uniform(0.9, 1.05))
    accent = [(190, 40, 40), (40, 70, 150), (30, 120, 110), (220, 140, 30)][rng.integers(4)]

    def put(points, colour):
        canvas.fill(rotated(points, centre, angle), colour)

    for wing in _wings(length):
        put(wing, shade(body, 0.86))
    for side in (-1, 1):
        put(
            [(-0.42, 0), (-0.50, side * 0.17), (-0.44, side * 0.17), (-0.33, 0.02 * side)] * np.array(length),
            body,
        )
        for reach in (0.16, 0.29)[: 2 if length > 170 else 1]:
            engine = ellipse(0.09 * length, 0.034 * length) + (
                0.085 * length - 0.2 * reach * length,
                side * reach * length,
            )
            put(engine, shade(body, 0.62))
        flap = np.array([(-0.055, 0.06), (-0.115, 0.44), (-0.10, 0.44), (-0.035, 0.06)]) * (1, side) * length
        put(flap, shade(body, 0.72))
    put(_fuselage(length), body)
    put(rotated(rectangle(0.84, 0.022) * length, (-0.02 * length, 0.022 * length), 0), shade(body, 0.8))
    put(np.array([(0.455, -0.022), (0.478, 0), (0.455, 0.022), (0.44, 0)]) * length, GLASS)
    put(np.array([(-0.5, -0.012), (-0.36, -0.006), (-0.36, 0.006), (-0.5, 0.012)]) * length, accent)
    return rotated(rectangle(length, 0.94 * length), centre, angle)


def _fuselage(length: float) -> np.ndarray:
    half = [
        (0.5, 0.0),
        (0.485, 0.022),
        (0.44, 0.042),
        (0.36, 0.05),
        (-0.28, 0.05),
        (-0.42, 0.028),
        (-0.5, 0.008),
    ]
    return np.array(half + [(x, -y) for x, y in reversed(half)]) * length


def _wings(length: float) -> list[np.ndarray]:
    wing = np.array([(0.13, 0.04), (-0.06, 0.47), (-0.115, 0.47), (-0.07, 0.04)]) * length
    return [wing, wing * (1, -1)]


def hull(length: float, width: float) -> np.ndarray:
    """A ship's outline with a pointed bow."""
    half = [(0.5, 0.0), (0.4, 0.24), (0.24, 0.42), (0.0, 0.5), (-0.38, 0.48), (-0.48, 0.38)]
    return np.array(half + [(x, -y) for x, y in reversed(half[1:])]) * (length, width)


def ship(canvas: Canvas, rng, centre, angle: float, length: float, *, wake: bool = False) -> np.ndarray:
    """A boat or ship: hull, deck, cabin with windows; with a wake where it moves."""
    width = length * rng.uniform(0.27, 0.36) if length < 110 else length * rng.uniform(0.17, 0.24)
    side = [(236, 238, 240), (225, 226, 222), (50, 66, 98), (120, 44, 40), (60, 62, 66)][
        rng.choice(5, p=[0.45, 0.2, 0.13, 0.12, 0.1])
    ]
    deck = [(214, 208, 196), (176, 148, 112), (190, 194, 198), (150, 90, 70)][rng.integers(4)]

    def put(points, colour):
        canvas.fill(rotated(points, centre, angle), colour)

    if wake:
        for spread, colour in ((0.9, (150, 170, 176)), (0.45, (205, 216, 218))):
            trail = np.array([(-0.4, 0.3), (-1.5, spread), (-1.5, -spread), (-0.4, -0.3)]) * (length, width)
            put(trail, colour)
    put(hull(length, width), side)
    put(hull(0.88 * length, 0.74 * width), deck)
    if length < 110:
        put(
            np.array([(0.2, -0.3), (0.27, 0), (0.2, 0.3), (-0.12, 0.34), (-0.12, -0.34)]) * (length, width),
            (244, 245, 246),
        )
        put(
            np.array([(0.12, -0.26), (0.17, 0), (0.12, 0.26), (0.06, 0.26), (0.06, -0.26)]) * (length, width),
            GLASS,
        )
        put(rectangle(0.2 * length, 0.5 * width) - (0.3 * length, 0), shade(deck, 0.75))
    else:
        put(rectangle(0.16 * length, 0.72 * width) - (0.33 * length, 0), (240, 240, 238))
        put(rectangle(0.05 * length, 0.66 * width) - (0.27 * length, 0), GLASS)
        put(ellipse(0.05 * length, 0.2 * width) - (0.38 * length, 0), (90, 40, 36))
        for slot in range(4):
            box = [(172, 70, 54), (60, 96, 128), (176, 150, 88), (112, 118, 116)][rng.integers(4)]
            put(rectangle(0.115 * length, 0.6 * width) + ((-0.15 + 0.135 * slot) * length, 0), box)
    return rotated(rectangle(length, width), centre, angle)


def car(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """A car with windscreens."""
    width = length * rng.uniform(0.42, 0.47)
    colour = CAR_COLOURS[
        rng.choice(len(CAR_COLOURS), p=[0.2, 0.17, 0.13, 0.1, 0.1, 0.08, 0.08, 0.05, 0.05, 0.04])
    ]

    def put(points, colour):
        canvas.fill(rotated(np.array(points) * (length, width), centre, angle), colour)

    put(
        [
            (0.44, -0.5),
            (0.5, -0.34),
            (0.5, 0.34),
            (0.44, 0.5),
            (-0.45, 0.5),
            (-0.5, 0.38),
            (-0.5, -0.38),
            (-0.45, -0.5),
        ],
        colour,
    )
    put([(0.24, -0.43), (0.24, 0.43), (0.1, 0.36), (0.1, -0.36)], GLASS)
    put([(-0.38, -0.4), (-0.38, 0.4), (-0.28, 0.35), (-0.28, -0.35)], GLASS)
    put([(0.1, -0.36), (0.1, 0.36), (-0.28, 0.35), (-0.28, -0.35)], shade(colour, 1.12))
    return rotated(rectangle(length, width), centre, angle)


def truck(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """A lorry: cab and trailer; or a bus."""
    width = length * rng.uniform(0.2, 0.25)
    trailer = [(236, 236, 234), (206, 208, 210), (60, 92, 140), (176, 66, 54), (210, 170, 80)][
        rng.choice(5, p=[0.5, 0.2, 0.12, 0.1, 0.08])
    ]
    cab = CAR_COLOURS[rng.integers(len(CAR_COLOURS))]

    def put(points, colour):
        canvas.fill(rotated(np.array(points) * (length, width), centre, angle), colour)

    if rng.random() < 0.2:  # a bus
        put(rectangle(1, 1), trailer)
        put([(0.5, -0.42), (0.5, 0.42), (0.46, 0.42), (0.46, -0.42)], GLASS)
        for x in (-0.25, 0.15):
            put(rectangle(0.14, 0.5) + (x, 0), shade(trailer, 0.8))
    else:
        put(rectangle(0.2, 0.9) + (0.4, 0), cab)
        put([(0.47, -0.4), (0.47, 0.4), (0.41, 0.36), (0.41, -0.36)], GLASS)
        put(rectangle(0.78, 1) - (0.11, 0), trailer)
        put(rectangle(0.78, 0.12) - (0.11, 0.4), shade(trailer, 0.82))
        for x in np.linspace(-0.42, 0.2, 6):
            put(rectangle(0.008, 1) + (x, 0), shade(trailer, 0.86))
    return rotated(rectangle(length, width), centre, angle)


def storage_tank(canvas: Canvas, rng, centre, diameter: float) -> np.ndarray:
    """A round tank: rim, shaded roof, stair and vents."""
    base = [(232, 232, 228), (214, 216, 218), (196, 192, 180), (170, 122, 96)][
        rng.choice(4, p=[0.5, 0.25, 0.15, 0.1])
    ]
    light = -canvas.sun / (np.linalg.norm(canvas.sun) + 1e-6)
    centre = np.asarray(centre, np.float64)
    canvas.fill(ellipse(diameter, diameter, 60) + centre, shade(base, 0.7))
    floating = rng.random() < 0.4
    for step in range(6):  # a shaded dome, or the sunk roof of a floating one
        share = 0.94 - 0.13 * step
        toward = (-1 if floating else 1) * light * diameter * 0.035 * step
        level = (0.78 if floating else 0.9) + 0.03 * step
        canvas.fill(ellipse(diameter * share, diameter * share, 60) + centre + toward, shade(base, level))
    canvas.line(ellipse(diameter * 0.97, diameter * 0.97, 60) + centre, shade(base, 1.08), 1.2, closed=True)
    turn = rng.uniform(0, 2 * math.pi)
    spoke = np.array([(0.0, 0.0), (math.cos(turn), math.sin(turn))]) * diameter * 0.48
    canvas.line(spoke + centre, shade(base, 0.6), 1.4)
    canvas.fill(ellipse(0.1 * diameter, 0.1 * diameter) + centre, shade(base, 0.66))
    return rectangle(diameter, diameter) + centre


def tennis_court(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """A tennis court with all its lines (23.77 x 10.97 m) in its surround; the label is that of the lines."""
    outer = [(62, 110, 78), (150, 92, 66), (56, 92, 130), (70, 120, 96)][rng.integers(4)]
    inner = [(46, 84, 128), (70, 126, 90), (172, 104, 72), (86, 76, 128)][rng.integers(4)]
    metre = length / 36.0

    def frame(points):
        return rotated(np.asarray(points, np.float64) * metre, centre, angle)

    canvas.fill(frame(rectangle(36, 18)), outer)
    canvas.fill(frame(rectangle(23.77, 10.97)), inner)
    white, wide = (236, 238, 236), max(0.8, 0.14 * metre)
    for points, closed in (
        (rectangle(23.77, 10.97), True),
        ([(-11.9, -4.1), (11.9, -4.1)], False),
        ([(-11.9, 4.1), (11.9, 4.1)], False),
        ([(-6.4, -4.1), (-6.4, 4.1)], False),
        ([(6.4, -4.1), (6.4, 4.1)], False),
        ([(-6.4, 0), (6.4, 0)], False),
    ):
        canvas.line(frame(points), white, wide, closed)
    canvas.line(frame([(0, -6.4), (0, 6.4)]), (30, 34, 34), wide * 1.3)
    return frame(rectangle(24, 11.2))


def basketball_court(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """A basketball court (28 x 15 m): keys, arcs, centre circle."""
    ground = [(176, 96, 70), (90, 118, 134), (150, 128, 98), (120, 72, 66)][rng.integers(4)]
    key = [(70, 92, 140), (150, 60, 52), (82, 120, 88)][rng.integers(3)]
    metre = length / 30.0

    def frame(points):
        return rotated(np.asarray(points, np.float64) * metre, centre, angle)

    canvas.fill(frame(rectangle(30, 17)), ground)
    white, wide = (238, 238, 232), max(0.8, 0.15 * metre)
    canvas.line(frame(rectangle(28, 15)), white, wide, closed=True)
    canvas.line(frame([(0, -7.5), (0, 7.5)]), white, wide)
    canvas.line(frame(ellipse(3.6, 3.6)), white, wide, closed=True)
    turn = np.linspace(-math.pi / 2, math.pi / 2, 20)
    for side in (-1, 1):
        canvas.fill(frame(rectangle(5.8, 4.9) + (side * 11.1, 0)), key)
        canvas.line(frame(rectangle(5.8, 4.9) + (side * 11.1, 0)), white, wide, closed=True)
        arc = np.column_stack([side * (12.4 - 6.75 * np.cos(turn)), 6.75 * np.sin(turn)])
        canvas.line(frame(arc), white, wide)
    return frame(rectangle(30, 17))


def baseball_diamond(canvas: Canvas, rng, centre, angle: float, side: float) -> np.ndarray:
    """A baseball field: outfield, dirt infield with its grass square, bases, mound."""
    grass, dirt = shade((96, 140, 70), rng.uniform(0.85, 1.1)), shade((186, 140, 96), rng.uniform(0.9, 1.08))

    def frame(points):  # home plate in the lower left corner of the box, the field opens to the upper right
        return rotated((np.asarray(points, np.float64) - 0.5) * side, centre, angle)

    turn = np.linspace(0, math.pi / 2, 24)

    def fan(radius, origin=(0.06, 0.06)):
        arc = np.column_stack([np.cos(turn), np.sin(turn)]) * radius
        return np.concatenate([[(0, 0)], arc]) + origin

    canvas.fill(frame(fan(0.94)), shade(dirt, 0.96))
    canvas.fill(frame(fan(0.88, (0.07, 0.07))), grass)
    for ring in (0.74, 0.6):
        canvas.line(frame(fan(ring)[1:]), shade(grass, 1.08), side * 0.05)
    canvas.fill(frame(fan(0.52)), dirt)
    canvas.fill(frame(np.array([(0.12, 0.12), (0.4, 0.12), (0.4, 0.4), (0.12, 0.4)])), shade(grass, 1.05))
    canvas.fill(frame(ellipse(0.08, 0.08) + (0.26, 0.26)), dirt)
    for base in ((0.09, 0.09), (0.43, 0.09), (0.43, 0.43), (0.09, 0.43)):
        canvas.fill(frame(rectangle(0.025, 0.025) + base), (244, 244, 240))
    for end in ((0.98, 0.06), (0.06, 0.98)):
        canvas.line(frame([(0.06, 0.06), end]), (236, 236, 230), max(0.8, side * 0.006))
    return frame([(0, 0), (1, 0), (1, 1), (0, 1)])


def swimming_pool(canvas: Canvas, rng, centre, angle: float, length: float) -> np.ndarray:
    """A pool with its paved rim: a rectangle or a kidney."""
    width = length * rng.uniform(0.48, 0.62)
    water = shade((72, 176, 204), rng.uniform(0.88, 1.1))
    if rng.random() < 0.6:
        shape = rectangle(1, 1)
    else:
        turn = np.linspace(0, 2 * math.pi, 40, endpoint=False)
        dent = 1 - 0.35 * np.exp(-(((turn - math.pi / 2) / 0.5) ** 2))
        shape = np.column_stack([0.5 * np.cos(turn), 0.5 * np.sin(turn) * dent])

    def put(scale, colour, shift=(0, 0)):
        canvas.fill(rotated(shape * (length, width) * scale + np.array(shift), centre, angle), colour)

    put(1.0, (222, 216, 204))
    put(0.86, shade(water, 0.8))
    put(0.8, water)
    put(0.45, shade(water, 1.12), (-0.14 * length, 0))
    return rotated(rectangle(length, width), centre, angle)
