"""Find anchor_scales for a data set's own boxes, scaled to the network's input as evaluation scales images.

The present anchors, data_dir, ann_file, letterbox and seed are options as of train.py (--config FILE, --NAME=VALUE).
"""

from collections.abc import Sequence

import numpy as np

from ..base.errors import reports_mistakes
from ..base.heads import ANCHORS_A_CELL
from ..config import load_config
from ..datasets.formats.yolo_labels import annotations_of
from ..layers.anchors import AnchorFit, fit_of, kmeans_anchors, refine_anchors, sorted_anchors
from ..options.tool_parser import tool_parser
from ..transforms import letterbox_geometry, stretch_geometry
from ..yolo_dataset import DetectionSet, load_detection_set, resolve_set

METHODS = ("kmeans", "genetic")


def box_shapes(dataset: DetectionSet, input_hw: tuple[int, int], letterbox: bool) -> np.ndarray:
    """(n, 2) width and height of all targets in pixels of the input (height, width)."""
    geometry_of = letterbox_geometry if letterbox else stretch_geometry
    shapes = [np.empty((0, 2), np.float32)]
    for record in dataset.records:
        boxes = geometry_of(record.width, record.height, input_hw).forward(record.boxes)
        shapes.append(boxes[:, 2:] - boxes[:, :2])
    return np.concatenate(shapes)


def report(before: AnchorFit, after: AnchorFit, anchors: np.ndarray, strides: Sequence[int]) -> str:
    """The fit of both, the shares of the strides, and the line for a YAML."""
    rows = [
        ("best-possible recall (IoU over 0.213)", *(f"{fit.recall:.2%}" for fit in (before, after))),
        ("boxes with best IoU over 0.5", *(f"{fit.over_half:.2%}" for fit in (before, after))),
        ("mean best IoU", *(f"{fit.mean_iou:.4f}" for fit in (before, after))),
    ]
    for number, stride in enumerate(reversed(strides)):  # anchors begin with the finest
        level = slice(ANCHORS_A_CELL * number, ANCHORS_A_CELL * (number + 1))
        shares = (f"{fit.share[level].sum():.2%}" for fit in (before, after))
        rows.append((f"boxes whose best anchor is of stride {stride}", *shares))
    lines = [f"{'':<42}{'now':>9}{'new':>9}", *(f"{name:<42}{old:>9}{new:>9}" for name, old, new in rows)]
    return "\n".join([*lines, f"anchor_scales: {anchors.tolist()}"])


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options, find anchors and print them; the exit code."""
    parser = tool_parser(
        __doc__, "further options as of train.py: --data_dir, --letterbox, --seed, --config, ..."
    )
    parser.add_argument(
        "--method", choices=METHODS, default="genetic", help="k-means, or refined after it [genetic]"
    )
    parser.add_argument("--input", type=int, help="side of the network's input [that of evaluation: 608]")
    parser.add_argument("--split", default="train", help="set whose boxes count [train]")
    parser.add_argument(
        "--generations", type=int, default=3000, help="children of the genetic refinement [3000]"
    )
    args, rest = parser.parse_known_args(argv)
    if (args.input is not None and (args.input < 32 or args.input % 32)) or args.generations < 0:
        parser.error("--input must be a multiple of 32 and --generations 0 or more")
    config = load_config(rest)
    input_hw = (args.input, args.input) if args.input else config.eval_input_hw
    image_dir, ann_file = resolve_set(config.data_dir, args.split, config.ann_file)
    document = annotations_of(image_dir, ann_file, config.labels)
    names = [str(entry.get("name")) for entry in document["categories"]]
    dataset = load_detection_set(
        image_dir, ann_file, names, crowd_targets=config.crowd_targets, document=document
    )
    boxes = box_shapes(dataset, input_hw, config.letterbox)
    present = np.array(config.anchor_scales)
    rng = np.random.default_rng(config.seed)
    anchors = kmeans_anchors(boxes, present, rng)
    if args.method == "genetic":
        anchors = refine_anchors(boxes, anchors, rng, args.generations)
    print(dataset.describe())
    how = "letterbox" if config.letterbox else "stretch"
    print(f"{len(boxes)} boxes in an input of {input_hw[1]}x{input_hw[0]} ({how}), {args.method}")
    print(report(fit_of(boxes, present), fit_of(boxes, anchors), anchors, config.heads.strides))
    if np.array_equal(anchors, sorted_anchors(present)):
        print("the present anchors are as good: nothing to change")
    return 0
