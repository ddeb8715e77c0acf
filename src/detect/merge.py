"""Detections of overlapping tiles made detections of the scene: each object once, and whole.

Three steps, each within a class:

1. A box that ends at an inner edge of its tile is a cut one. Where another tile shows the object whole, or
   more of it, the cut box is dropped; it could survive a suppression, since the overlap is only a part.
2. Cut boxes that remain are of objects longer than the overlap, which no tile shows whole. Parts from
   neighbouring tiles that both reach across the whole strip that the tiles share are joined.
3. Boxes of different tiles that overlap are views of one object: the best is kept (`nms`), or their mean
   (`weighted`). Boxes of one tile are left as its own post-processing left them, so that dense objects
   away from seams come out as the tile gave them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..imaging.boxes import area, intersection, iou
from .box_pairs import intersecting_pairs
from .nms import keep_greedily
from .postprocess import Detections

JOINED = -1  # tile of a box that was joined from several
_CUT_SHARE = 0.15  # a box whose end is nearer to the tile's edge than this share of its side is cut there
_SHOWN = 0.6  # share of a cut box that a whole one must cover
_AGREE = 0.3  # share of the shorter of two parts' sides along the seam that they must have in common
_WEAK = 0.1  # a box with less than this share of another's score does not decide about it


@dataclass(frozen=True)
class MergeOptions:
    """How detections of tiles are merged.

    Attributes:
        method: `nms` keeps the best box of each object; `weighted` takes the mean of the boxes that it
            suppresses and itself, weighted by their scores.
        iou_threshold: IoU above which boxes of two tiles are views of one object.
        edge_tolerance: a box that ends within so many scene pixels of an inner edge of its tile is cut, or
            within 15 % of its own side: a network is off by so much.
    """

    method: str = "nms"
    iou_threshold: float = 0.5
    edge_tolerance: float = 2.0

    def __post_init__(self):
        if self.method not in ("nms", "weighted"):
            raise ValueError(f"method {self.method!r}: nms or weighted")


DEFAULT_MERGE = MergeOptions()


@dataclass(frozen=True)
class TileDetections:
    """Detections of all tiles of a scene, in scene pixels.

    boxes (n, 4) float64 x1 y1 x2 y2, scores (n,), classes (n,), tile (n,): row of `windows` (t, 4)
    x1 y1 x2 y2, the parts of the scene that the tiles show; scene_wh: its width and height.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tile: np.ndarray
    windows: np.ndarray
    scene_wh: tuple[int, int]


def merge_scene(found: TileDetections, options: MergeOptions = DEFAULT_MERGE) -> Detections:
    """Detections of the scene, best first."""
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)
    scores, classes = np.asarray(found.scores, np.float32), np.asarray(found.classes, np.int32)
    parts = _Parts(boxes, scores, classes, np.asarray(found.tile, np.int64), _cut_sides(found, options))
    parts = _drop_pieces(parts)
    if parts.cut.any():
        parts = _join(parts, np.asarray(found.windows, np.float64), options.edge_tolerance)
        parts = _drop_pieces(parts)
    order = np.argsort(-parts.scores, kind="stable")
    parts = parts.take(order)
    kept, boxes = suppress_views(
        parts.boxes, parts.classes, parts.tile, options.iou_threshold, parts.scores, options.method
    )
    return Detections(boxes.astype(np.float32), parts.scores[kept], parts.classes[kept])


def suppress_views(boxes, classes, tile, threshold: float, scores, method: str = "nms"):
    """Greedy suppression between boxes of one class and different tiles, sorted by falling score.

    Args:
        boxes: (n, 4) float64.
        classes: (n,).
        tile: (n,) boxes of one tile do not suppress each other, unless it is `JOINED`.
        threshold: IoU.
        scores: (n,) weights of `weighted`.
        method: `nms` or `weighted`.

    Returns:
        Indices (m,) of the kept boxes, in order, and their boxes (m, 4).
    """
    lower, higher = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
    for a, b in intersecting_pairs(boxes, classes):
        apart = (tile[a] != tile[b]) | (tile[a] == JOINED)
        a, b = a[apart], b[apart]
        over = iou(boxes[a], boxes[b]) > threshold
        lower.append(np.maximum(a[over], b[over]))
        higher.append(np.minimum(a[over], b[over]))
    lower, higher = np.concatenate(lower), np.concatenate(higher)
    keeps = keep_greedily(len(boxes), lower, higher)
    kept = np.flatnonzero(keeps)
    if method == "nms":
        return kept, boxes[kept]
    # Each suppressed box goes to the best of those that suppress it.
    owner = np.where(keeps, np.arange(len(boxes)), len(boxes))
    counts = keeps[higher] & ~keeps[lower]
    np.minimum.at(owner, lower[counts], higher[counts])
    weight = np.asarray(scores, np.float64)
    total = np.bincount(owner, weight, len(boxes))
    mean = np.stack([np.bincount(owner, weight * side, len(boxes)) for side in boxes.T], axis=1)
    return kept, mean[kept] / np.maximum(total[kept, None], np.finfo(float).tiny)


@dataclass(frozen=True)
class _Parts:
    """Boxes with `cut` (n, 4) bool: which of their sides x1 y1 x2 y2 are at an inner edge of their tile."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tile: np.ndarray
    cut: np.ndarray

    def take(self, rows) -> "_Parts":
        return _Parts(
            self.boxes[rows], self.scores[rows], self.classes[rows], self.tile[rows], self.cut[rows]
        )

    def without(self, dropped: np.ndarray) -> "_Parts":
        return self.take(np.flatnonzero(~dropped))


def _cut_sides(found: TileDetections, options: MergeOptions) -> np.ndarray:
    boxes, windows = np.asarray(found.boxes, np.float64).reshape(-1, 4), np.asarray(found.windows, np.float64)
    scene = np.array([0, 0, *found.scene_wh], np.float64)
    inner = np.concatenate([windows[:, :2] > scene[:2], windows[:, 2:] < scene[2:]], axis=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    tolerance = np.tile(np.maximum(options.edge_tolerance, _CUT_SHARE * sides), (1, 2))
    return inner[found.tile] & (np.abs(boxes - windows[found.tile]) <= tolerance)


def _drop_pieces(parts: _Parts) -> _Parts:
    """Without the cut boxes of which a box of another tile shows the object whole, or more of it.

    Where that other box is cut and the dropped one is not, the dropped one knows where the object ends.
    """
    is_cut = np.asarray(parts.cut.any(axis=1))
    if not is_cut.any():
        return parts
    tile, boxes, cut = parts.tile, parts.boxes.copy(), parts.cut.copy()
    dropped = np.zeros(len(is_cut), bool)
    for a, b in intersecting_pairs(parts.boxes, parts.classes):
        apart = (is_cut[a] | is_cut[b]) & ((tile[a] != tile[b]) | (tile[a] == JOINED))
        for piece, other in ((a[apart], b[apart]), (b[apart], a[apart])):
            more = _shows_more(parts, is_cut, piece, other)
            piece, other = piece[more], other[more]
            dropped[piece] = True
            for side, outermost in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
                knows = parts.cut[other, side] & ~parts.cut[piece, side]
                outermost.at(boxes[:, side], other[knows], parts.boxes[piece[knows], side])
                cut[other[knows], side] = False
    return _Parts(boxes, parts.scores, parts.classes, tile, cut).without(dropped)


def _shows_more(parts: _Parts, is_cut: np.ndarray, piece: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) bool of pairs: `piece` is cut, and `other` shows that of the object and what was cut away.

    It covers the piece, reaches at least as far at the piece's cut sides, and is not itself cut where the
    piece goes on. Of two cut boxes only the smaller one can be dropped.
    """
    small, large = parts.boxes[piece], parts.boxes[other]
    own_area, other_area = area(small), area(large)
    covered = intersection(small, large) >= _SHOWN * np.maximum(own_area, np.finfo(float).tiny)
    slack = 0.5 + _CUT_SHARE * np.tile(small[:, 2:] - small[:, :2], (1, 2))
    outwards = np.concatenate([small[:, :2] - large[:, :2], large[:, 2:] - small[:, 2:]], axis=1)
    reaches = ((outwards >= -slack) | ~(parts.cut[piece] | parts.cut[other])).all(axis=1)
    larger = (other_area > own_area) | ((other_area == own_area) & (other < piece))
    sure = parts.scores[other] >= _WEAK * parts.scores[piece]
    return is_cut[piece] & covered & reaches & sure & (larger | ~is_cut[other])


def _join(parts: _Parts, windows: np.ndarray, tolerance: float) -> _Parts:
    """Cut boxes joined across seams; the others as they are."""
    is_cut = np.asarray(parts.cut.any(axis=1))
    pieces = parts.take(np.flatnonzero(is_cut))
    group = np.arange(len(pieces.tile))

    def root(number: int) -> int:
        while group[number] != number:
            group[number] = group[group[number]]
            number = group[number]
        return number

    for a, b in _links(pieces, windows, tolerance):
        group[root(a)] = root(b)
    group = np.array([root(number) for number in range(len(group))], np.intp)
    roots, member, count = np.unique(group, return_inverse=True, return_counts=True)
    low = np.full((len(roots), 2), np.inf)
    high = np.full((len(roots), 2), -np.inf)
    np.minimum.at(low, member, pieces.boxes[:, :2])
    np.maximum.at(high, member, pieces.boxes[:, 2:])
    box = np.concatenate([low, high], axis=1)
    score = np.zeros(len(roots), np.float32)
    np.maximum.at(score, member, pieces.scores)
    # The object goes on where its outermost part is cut.
    outermost = np.abs(pieces.boxes - box[member]) <= tolerance
    cut = np.zeros((len(roots), 4), bool)
    np.logical_or.at(cut, member, pieces.cut & outermost)
    tile = np.where(count > 1, JOINED, pieces.tile[roots])
    joined = _Parts(box, score, pieces.classes[roots], tile, cut)
    whole = parts.without(is_cut)
    return _Parts(
        *(np.concatenate([getattr(whole, name), getattr(joined, name)]) for name in _Parts.__annotations__)
    )


def _links(pieces: _Parts, windows: np.ndarray, tolerance: float) -> Iterator[tuple[int, int]]:
    """Pairs of cut boxes that are parts of one object; each end of a box is used once, the best pair first.

    Across the seam of a tile and one to its right: the left part is cut at its right end and the right one
    at its left end, each reaches across the strip that the tiles share, and they agree along the seam. An
    object that lies askew shows different heights in the two tiles, so little agreement must do. The same
    holds for a tile and one below.
    """
    near = 2 * tolerance  # parts that only touch, of tiles without overlap
    grown = pieces.boxes + (-near, -near, near, near)
    found = []
    for a, b in intersecting_pairs(grown, pieces.classes):
        for first, second in ((a, b), (b, a)):
            for axis in (0, 1):
                found.append(_seam_links(pieces, windows, first, second, axis, tolerance))
    first, second, axis, quality = (np.concatenate(column) for column in zip(*found)) if found else [()] * 4
    used = set()
    for row in np.argsort(-np.asarray(quality), kind="stable"):
        ends = (int(first[row]), int(axis[row]) + 2), (int(second[row]), int(axis[row]))
        if used.isdisjoint(ends):
            used.update(ends)
            yield ends[0][0], ends[1][0]


def _seam_links(pieces: _Parts, windows, first, second, axis: int, tolerance: float):
    """Of pairs (first, second), those whose first is the left (upper, axis 1) part of the second's object."""
    candidate = pieces.cut[first, axis + 2] & pieces.cut[second, axis]
    first, second = first[candidate], second[candidate]
    left, right = pieces.boxes[first], pieces.boxes[second]
    tile_a, tile_b = windows[pieces.tile[first]], windows[pieces.tile[second]]
    slack_a, slack_b = (
        np.maximum(tolerance, _CUT_SHARE * (box[:, axis + 2] - box[:, axis])) for box in (left, right)
    )
    beside = (tile_a[:, axis] < tile_b[:, axis]) & (tile_b[:, axis] <= tile_a[:, axis + 2] + tolerance)
    across = (left[:, axis] <= tile_b[:, axis] + slack_a) & (
        right[:, axis + 2] >= tile_a[:, axis + 2] - slack_b
    )
    along = 1 - axis
    low = np.maximum(tile_a[:, along], tile_b[:, along])  # of what both tiles show
    high = np.minimum(tile_a[:, along + 2], tile_b[:, along + 2])
    starts = [np.clip(box[:, along], low, high) for box in (left, right)]
    ends = [np.clip(box[:, along + 2], low, high) for box in (left, right)]
    common = np.minimum(*ends) - np.maximum(*starts)
    shorter = np.minimum(ends[0] - starts[0], ends[1] - starts[1])
    agreement = common / np.maximum(shorter, 1e-9)
    scores = pieces.scores[first].astype(np.float64), pieces.scores[second].astype(np.float64)
    sure = np.minimum(*scores) >= _WEAK * np.maximum(*scores)
    good = beside & across & (common > 0) & (agreement >= _AGREE) & sure
    quality = (agreement * np.sqrt(scores[0] * scores[1]))[good]
    return first[good], second[good], np.full(len(quality), axis), quality
