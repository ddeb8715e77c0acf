"""Post-processing inside an ONNX file, with standard operators, so that a client gets final boxes.

The steps and formulas of `src.detect.postprocess` and `src.imaging.boxes`, written once more because a file holds
operators alone: score filter, top-k, clipping, non-maximum suppression. The suppression is greedy and is found as a
fixed point: a box is kept where no better kept box of its class overlaps it too much; each turn settles at least one
more box, mostly many. It covers DIoU, which ONNX's own NonMaxSuppression does not. Two forms give the same boxes:

- dynamic: as many rows as there are boxes; a loop that ends when nothing changes.
- static: every shape is fixed and nothing branches, for Ascend's compilers. `TURNS` turns are written out, which is
  exact unless more than `TURNS` boxes of a class form a chain in which each is dropped by the one before it; boxes
  after that may be kept wrongly.
"""

from itertools import pairwise

import onnx
from onnx import compose, parser

from ..base.errors import UserError
from ..base.heads import ANCHORS_A_CELL
from ..detect.postprocess import PostprocessOptions
from ..detect.settings import ModelSettings
from .onnx_graph import one_opset

TURNS = 32

# The chosen predictions' boxes as corners in pixels, clipped to the input.
_CLIPPED = """\
  halves = Mul(top_sides, half)
  low = Sub(top_centre, halves)
  high = Add(top_centre, halves)
  shares = Concat <axis = 1> (low, high)
  pixels = Mul(shares, size)
  positive = Max(pixels, zero)
  clipped = Min(positive, size)
"""

# From the columns x1 y1 x2 y2 (n, 1) to over (n, n): whether two boxes overlap more than the limit.
_OVERLAPS = """\
  u1 = Transpose <perm = [1, 0]> (x1)
  v1 = Transpose <perm = [1, 0]> (y1)
  u2 = Transpose <perm = [1, 0]> (x2)
  v2 = Transpose <perm = [1, 0]> (y2)
  inner_left = Max(x1, u1)
  inner_right = Min(x2, u2)
  inner_width = Sub(inner_right, inner_left)
  shared_width = Max(inner_width, zero)
  inner_top = Max(y1, v1)
  inner_bottom = Min(y2, v2)
  inner_height = Sub(inner_bottom, inner_top)
  shared_height = Max(inner_height, zero)
  shared = Mul(shared_width, shared_height)
  width = Sub(x2, x1)
  height = Sub(y2, y1)
  area = Mul(width, height)
  area_t = Transpose <perm = [1, 0]> (area)
  areas = Add(area, area_t)
  joined = Sub(areas, shared)
  joined_safe = Max(joined, tiny)
  iou = Div(shared, joined_safe)
  outer_left = Min(x1, u1)
  outer_right = Max(x2, u2)
  outer_width = Sub(outer_right, outer_left)
  outer_top = Min(y1, v1)
  outer_bottom = Max(y2, v2)
  outer_height = Sub(outer_bottom, outer_top)
  outer_width2 = Mul(outer_width, outer_width)
  outer_height2 = Mul(outer_height, outer_height)
  diagonal2 = Add(outer_width2, outer_height2)
  middle_x2 = Add(x1, x2)
  middle_y2 = Add(y1, y2)
  middle_x = Mul(middle_x2, half)
  middle_y = Mul(middle_y2, half)
  middle_x_t = Transpose <perm = [1, 0]> (middle_x)
  middle_y_t = Transpose <perm = [1, 0]> (middle_y)
  apart_x = Sub(middle_x, middle_x_t)
  apart_y = Sub(middle_y, middle_y_t)
  apart_x2 = Mul(apart_x, apart_x)
  apart_y2 = Mul(apart_y, apart_y)
  distance2 = Add(apart_x2, apart_y2)
  penalty1 = Div(distance2, diagonal2)
  penalty = Mul(penalty1, diou)
  overlap = Sub(iou, penalty)
  over = Greater(overlap, overlap_limit)
"""

_DYNAMIC = """
<ir_version: 8, opset_import: ["" : {opset}]>
postprocess ({maps}) => (float[n,6] detections)
<int64[2] flat = {{-1, {width}}}, int64[4] parts = {{2, 2, 1, {classes}}}, float[4] size = {{{w}, {h}, {w}, {h}}},
 float lowest = {{{score}}}, float overlap_limit = {{{nms}}}, float diou = {{{diou}}},
 int64[1] top = {{{top_k}}}, int64 turns = {{{top_k}}}, int64[1] most = {{{most}}},
 int64[2] corners = {{2, 2}}, int64[4] columns = {{1, 1, 1, 1}}, int64[1] first = {{0}}, int64[1] second = {{1}},
 int64 start = {{0}}, int64 step = {{1}},
 float half = {{0.5}}, float zero = {{0.0}}, float one = {{1.0}}, float tiny = {{1e-30}}>
{{
{cells}
  centre, sides, objectness, probabilities = Split <axis = 1> (cells, parts)
  best = ReduceMax <axes = [1], keepdims = 1> (probabilities)
  label = ArgMax <axis = 1, keepdims = 0> (probabilities)
  score2 = Mul(best, objectness)
  score = Squeeze(score2, second)
  enough = GreaterOrEqual(score, lowest)
  passed2 = NonZero(enough)
  passed = Squeeze(passed2, first)
  passed_score = Gather(score, passed)
  count = Shape(passed_score)
  k = Min(count, top)
  top_score, order = TopK <axis = 0> (passed_score, k)
  chosen = Gather(passed, order)
  top_label = Gather(label, chosen)

  top_centre = Gather(centre, chosen)
  top_sides = Gather(sides, chosen)
{clipped}
  clipped_low, clipped_high = Split <axis = 1> (clipped, corners)
  clipped_sides = Sub(clipped_high, clipped_low)
  smaller = ReduceMin <axes = [1], keepdims = 0> (clipped_sides)
  inside = Greater(smaller, zero)
  boxes = Compress <axis = 0> (clipped, inside)
  scores = Compress <axis = 0> (top_score, inside)
  labels = Compress <axis = 0> (top_label, inside)

  x1, y1, x2, y2 = Split <axis = 1> (boxes, columns)
{overlaps}
  label_column = Unsqueeze(labels, second)
  label_row = Unsqueeze(labels, first)
  same = Equal(label_column, label_row)
  number1 = Shape(scores)
  number = Squeeze(number1, first)
  rank = Range(start, number, step)
  rank_column = Unsqueeze(rank, second)
  rank_row = Unsqueeze(rank, first)
  worse = Greater(rank_column, rank_row)
  over_same = And(over, same)
  drops_bool = And(over_same, worse)
  drops = Cast <to = 1> (drops_bool)
  score_column = Unsqueeze(scores, second)
  zeros = Mul(score_column, zero)
  all = Add(zeros, one)
  go = Less(zero, one)
  kept = Loop <body = turn (int64 i, bool go_in, float[m,1] before) => (bool again, float[m,1] after) {{
    hits = MatMul(drops, before)
    free = Equal(hits, zero)
    after = Cast <to = 1> (free)
    change = Sub(after, before)
    distance = Abs(change)
    changes = ReduceSum <keepdims = 0> (distance)
    again = Greater(changes, zero)
  }}> (turns, go, all)
  kept_row = Squeeze(kept, second)
  is_kept = Greater(kept_row, zero)
  label_float = Cast <to = 1> (label_column)
  table = Concat <axis = 1> (boxes, score_column, label_float)
  kept_table = Compress <axis = 0> (table, is_kept)
  detections = Slice(kept_table, first, most, first)
}}
"""

# As opset 11 writes it, with axes and parts as attributes: Ascend's compilers want them as constants. What depends on
# constants alone is avoided too: ONNX Runtime's CANN provider leaves that to the CPU.
_STATIC = """
<ir_version: 8, opset_import: ["" : {opset}]>
postprocess ({maps})
    => (float[{most},6] detections, float[1] count)
<int64[2] flat = {{-1, {width}}}, int64[1] row = {{-1}}, int64[2] column = {{-1, 1}},
 float[4] size = {{{w}, {h}, {w}, {h}}}, int64[1] top = {{{top_k}}}, int64[1] most = {{{most}}},
 float[1,{top_k}] rank_row = {{{ranks}}}, float[{top_k},1] ranks = {{{ranks}}}, float lowest = {{{score}}},
 float overlap_limit = {{{nms}}}, float diou = {{{diou}}}, float half = {{0.5}}, float zero = {{0.0}},
 float one = {{1.0}}, float tiny = {{1e-30}}, float dropped = {{-0.5}}>
{{
{cells}
  all_boxes, all_objectness, all_probabilities = Split <axis = 1, split = [4, 1, {classes}]> (cells)
  all_best = ReduceMax <axes = [1], keepdims = 1> (all_probabilities)
  all_score2 = Mul(all_best, all_objectness)
  all_score = Reshape(all_score2, row)
  top_score, order = TopK <axis = 0> (all_score, top)
  top_cells = Gather <axis = 0> (cells, order)
  top_centre, top_sides, top_objectness, top_probabilities = Split <axis = 1, split = [2, 2, 1, {classes}]> (top_cells)
  label_index = ArgMax <axis = 1, keepdims = 1> (top_probabilities)
  label_column = Cast <to = 1> (label_index)

{clipped}
  box_low, box_high = Split <axis = 1, split = [2, 2]> (clipped)
  box_sides = Sub(box_high, box_low)
  smaller = ReduceMin <axes = [1], keepdims = 1> (box_sides)
  inside = Greater(smaller, zero)
  score_column = Reshape(top_score, column)
  below = Less(score_column, lowest)
  enough = Not(below)
  is_valid = And(inside, enough)
  valid = Cast <to = 1> (is_valid)

  x1, y1, x2, y2 = Split <axis = 1, split = [1, 1, 1, 1]> (clipped)
{overlaps}
  label_row = Transpose <perm = [1, 0]> (label_column)
  same = Equal(label_column, label_row)
  zeros = Mul(score_column, zero)
  rank_column = Add(zeros, ranks)
  worse = Greater(rank_column, rank_row)
  over_same = And(over, same)
  drops_bool = And(over_same, worse)
  drops = Cast <to = 1> (drops_bool)
{turns}
  table = Concat <axis = 1> (clipped, score_column, label_column)
  others = Sub(one, kept)
  kept_score = Mul(score_column, kept)
  key_column = Sub(kept_score, others)
  key = Reshape(key_column, row)
  top_key, kept_order = TopK <axis = 0> (key, most)
  rows = Gather <axis = 0> (table, kept_order)
  is_kept = Greater(top_key, dropped)
  mask = Cast <to = 1> (is_kept)
  mask_column = Reshape(mask, column)
  detections = Mul(rows, mask_column)
  count = ReduceSum <axes = [0], keepdims = 1> (mask)
}}
"""
_TURN = """\
  hits{n} = MatMul(drops, {before})
  hit{n} = Min(hits{n}, one)
  free{n} = Sub(one, hit{n})
  {after} = Mul(free{n}, valid)
"""


def add_postprocessing(
    model: onnx.ModelProto,
    options: PostprocessOptions,
    settings: ModelSettings,
    top_k: int,
    *,
    static: bool = False,
) -> onnx.ModelProto:
    """The model with final boxes as its only output: `detections` (n, 6), x1 y1 x2 y2 in input pixels, score, class.

    Args:
        model: gives the decoded maps of one image.
        options: thresholds.
        settings: input size and classes.
        top_k: most boxes that enter the suppression, the best ones.
        static: `detections` of a fixed n, the best first, and `count` (1,) of its rows; the others are zero.

    Raises:
        UserError: `published_overlap`, which is for comparison alone.
    """
    if options.published_overlap:
        raise UserError("published_overlap: end_to_end has the correct overlap alone; set it to False")
    height, width = settings.input_hw
    if static:  # top-k of a fixed number of cells cannot be more
        grids = settings.heads.grid_shapes(settings.input_hw)
        top_k = min(top_k, ANCHORS_A_CELL * sum(rows * columns for rows, columns in grids))
    else:
        model = onnx.version_converter.convert_version(model, 13)
    levels = len(settings.heads.strides)
    names = ["valid", *(f"kept{turn}" for turn in range(1, TURNS)), "kept"]
    text = (_STATIC if static else _DYNAMIC).format(
        opset=model.opset_import[0].version,
        width=5 + len(settings.class_names),
        classes=len(settings.class_names),
        w=float(width),
        h=float(height),
        score=float(options.score_threshold),
        nms=float(options.nms_threshold),
        top_k=top_k,
        most=min(options.max_detections, top_k) if static else options.max_detections,
        diou=float(options.nms_type == "diou"),
        maps=", ".join(f"float[1,h{level},w{level},3,d] map{level}" for level in range(levels)),
        cells=_cells(levels),
        clipped=_CLIPPED,
        overlaps=_OVERLAPS,
        ranks=", ".join(map(str, range(top_k))),
        turns="".join(
            _TURN.format(n=number, before=before, after=after)
            for number, (before, after) in enumerate(pairwise(names))
        ),
    )
    post = parser.parse_model(text)
    post.ir_version = model.ir_version
    maps = [output.name for output in model.graph.output]
    joined = compose.merge_models(
        model, post, io_map=[(name, f"map{level}") for level, name in enumerate(maps)]
    )
    one_opset(joined)
    return joined


def _cells(levels: int) -> str:
    """The decoded maps as one table of all cells' predictions."""
    flat = [f"flat{level}" for level in range(levels)]
    lines = [f"  {name} = Reshape(map{level}, flat)" for level, name in enumerate(flat)]
    return "\n".join([*lines, f"  cells = Concat <axis = 0> ({', '.join(flat)})", ""])
