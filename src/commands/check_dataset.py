"""Look through a data set before training: every problem counted, with examples, and statistics.

The data set and the network's input are options as of train.py (--data_dir, --ann_file, --ann_val_file, --labels,
--max_box, --letterbox, --config FILE, ...). The exit code is 0 where nothing was found, 1 where something was, and
2 where the data set or an option is not usable at all.
"""

import argparse
from pathlib import Path

import numpy as np

from ..base.atomic import write_json
from ..base.errors import reports_mistakes
from ..config import Config, load_config
from ..datasets.check import check_boxes, check_set
from ..datasets.check_images import check_images
from ..datasets.findings import Findings, findings_text
from ..logger import progress_bar
from ..options.tool_parser import tool_parser
from ..runtime.collectives import data_threads
from ..runtime.device import Runtime
from ..yolo_dataset import resolve_set

ANN_OPTIONS = {"train": "ann_file", "val": "ann_val_file"}


def check(config: Config, args: argparse.Namespace) -> tuple[Findings, dict[str, dict]]:
    """Check the splits; what was found, and the statistics of each.

    Raises:
        UserError: a folder or an annotation file is missing or not usable at all.
    """
    findings = Findings(args.examples)
    sets = []
    for split in args.split:
        ann_file = config[ANN_OPTIONS[split]] if split in ANN_OPTIONS else ""
        folder, ann_file = resolve_set(config.data_dir, split, ann_file)
        crowd_targets = split == "train" and config.crowd_targets  # evaluation ignores crowds
        sets.append(check_set(split, folder, ann_file, config.labels, findings, crowd_targets))
    total = len({image.path for checked in sets for image in checked.images})
    workers = data_threads(Runtime(), config.num_parallel_workers)
    with progress_bar(total, "images", "image") as bar:
        check_images(sets, findings, decode=args.decode, workers=workers, progress=bar.update)
    statistics = {
        checked.split: check_boxes(
            checked,
            findings,
            input_hw=(args.input, args.input) if args.input else config.eval_input_hw,
            letterbox=config.letterbox,
            max_box=config.max_box,
            anchors=np.array(config.anchor_scales),
            tiny=args.tiny,
        )
        for checked in sets
    }
    return findings, statistics


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options, check and print; the exit code."""
    parser = tool_parser(
        __doc__, "further options as of train.py: --data_dir, --labels, --num_parallel_workers, --config, ..."
    )
    parser.add_argument(
        "--split", nargs="+", choices=("train", "val", "test"), default=["train", "val"],
        help="sets to check [train val]",
    )  # fmt: skip
    parser.add_argument(
        "--decode", action="store_true", help="decode all pixels, not the headers alone (slow)"
    )
    parser.add_argument("--input", type=int, help="side of the network's input [that of evaluation: 608]")
    parser.add_argument("--tiny", type=float, default=2.0, help="shortest side there that is not tiny [2]")
    parser.add_argument("--examples", type=int, default=5, help="examples of a kind that are shown [5]")
    parser.add_argument("--json", metavar="FILE", help="write problems and statistics to this file too")
    args, rest = parser.parse_known_args(argv)
    if (
        (args.input is not None and (args.input < 32 or args.input % 32))
        or args.examples < 0
        or args.tiny < 0
    ):
        parser.error("--input must be a multiple of 32, --examples and --tiny 0 or more")
    args.split = list(dict.fromkeys(args.split))
    findings, statistics = check(load_config(rest), args)
    if args.json:
        write_json(Path(args.json), {"problems": findings.as_list(), "sets": statistics}, indent=1)
    print(findings_text(findings, statistics))
    return 1 if findings.counts else 0
