"""Post-processing inside an ONNX file, with standard operators, so that a client gets final boxes.

The same steps as `src.evaluation.postprocess`: score filter, top-k, clipping, non-maximum suppression. The
suppression is greedy and is found as a fixed point: a box is kept where no better kept box of its class
overlaps it too much; each turn of the loop settles at least one more box, mostly many, and the loop ends when
nothing changes. It covers DIoU, which ONNX's own NonMaxSuppression does not.
"""

import onnx
from onnx import compose, parser

from src.deploy.settings import ModelSettings
from src.errors import UserError
from src.evaluation.postprocess import PostprocessOptions

_GRAPH = """
<ir_version: 8, opset_import: ["" : {opset}]>
postprocess (float[1,a,b,3,d] map0, float[1,e,f,3,d] map1, float[1,g,h,3,d] map2) => (float[n,6] detections)
<int64[2] flat = {{-1, {width}}}, int64[4] parts = {{2, 2, 1, {classes}}}, float[4] size = {{{w}, {h}, {w}, {h}}},
 float lowest = {{{score}}}, float overlap_limit = {{{nms}}}, float diou = {{{diou}}},
 int64[1] top = {{{top_k}}}, int64 turns = {{{top_k}}}, int64[1] most = {{{most}}},
 int64[2] corners = {{2, 2}}, int64[4] columns = {{1, 1, 1, 1}}, int64[1] first = {{0}}, int64[1] second = {{1}},
 int64 start = {{0}}, int64 step = {{1}},
 float half = {{0.5}}, float zero = {{0.0}}, float one = {{1.0}}, float tiny = {{1e-30}}>
{{
  flat0 = Reshape(map0, flat)
  flat1 = Reshape(map1, flat)
  flat2 = Reshape(map2, flat)
  cells = Concat <axis = 0> (flat0, flat1, flat2)
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
  halves = Mul(top_sides, half)
  low = Sub(top_centre, halves)
  high = Add(top_centre, halves)
  shares = Concat <axis = 1> (low, high)
  pixels = Mul(shares, size)
  positive = Max(pixels, zero)
  clipped = Min(positive, size)
  clipped_low, clipped_high = Split <axis = 1> (clipped, corners)
  clipped_sides = Sub(clipped_high, clipped_low)
  smaller = ReduceMin <axes = [1], keepdims = 0> (clipped_sides)
  inside = Greater(smaller, zero)
  boxes = Compress <axis = 0> (clipped, inside)
  scores = Compress <axis = 0> (top_score, inside)
  labels = Compress <axis = 0> (top_label, inside)

  x1, y1, x2, y2 = Split <axis = 1> (boxes, columns)
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


def add_postprocessing(
    model: onnx.ModelProto, options: PostprocessOptions, settings: ModelSettings, top_k: int
) -> onnx.ModelProto:
    """The model with `detections` (n, 6) as its only output: x1 y1 x2 y2 in input pixels, score, class.

    Args:
        model: gives the decoded maps of one picture.
        options: thresholds.
        settings: input size and classes.
        top_k: most boxes that enter the suppression, the best ones.

    Raises:
        UserError: `published_overlap`, which is for comparison alone.
    """
    if options.published_overlap:
        raise UserError("published_overlap: end_to_end has the correct overlap alone; set it to False")
    height, width = settings.input_hw
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < 13:
        model = onnx.version_converter.convert_version(model, 13)
        opset = 13
    text = _GRAPH.format(
        opset=opset,
        width=5 + len(settings.class_names),
        classes=len(settings.class_names),
        w=float(width),
        h=float(height),
        score=float(options.score_threshold),
        nms=float(options.nms_threshold),
        top_k=top_k,
        most=options.max_detections,
        diou=float(options.nms_type == "diou"),
    )
    post = parser.parse_model(text)
    post.ir_version = model.ir_version
    maps = [output.name for output in model.graph.output]
    joined = compose.merge_models(
        model, post, io_map=[(name, f"map{level}") for level, name in enumerate(maps)]
    )
    name_ends(joined, joined.graph.input[0].name, ["detections"])
    return joined


def name_ends(model: onnx.ModelProto, input_name: str, output_names: list[str]) -> None:
    """Give the model's input and outputs names that a client can understand, in place."""
    graph = model.graph
    renamed = {graph.input[0].name: input_name}
    renamed.update({output.name: name for output, name in zip(graph.output, output_names)})
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in [*graph.input, *graph.output]:
        value.name = renamed[value.name]
