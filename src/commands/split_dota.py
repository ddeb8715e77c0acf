"""Cut DOTA scenes (images/ and labelTxt/) into tiles with annotations in COCO's format."""

import argparse
import os
from pathlib import Path

from ..base.errors import reports_mistakes
from ..datasets.dota_labels import CLASSES
from ..datasets.dota_split import SplitOptions, split_set


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options and split; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--src", type=Path, required=True, default=argparse.SUPPRESS, help="folder with images/ and labelTxt/"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        default=argparse.SUPPRESS,
        help="data set that gets {split}/ and annotations/",
    )
    parser.add_argument("--split", default="train", help="train, val or test")
    parser.add_argument("--version", choices=CLASSES, default="1.5", help="DOTA version of the class names")
    parser.add_argument("--tile_size", type=int, default=600, help="side of a tile in pixels")
    parser.add_argument("--overlap", type=float, default=0.2, help="share of a tile in common with the next")
    parser.add_argument(
        "--min_visible", type=float, default=0.7, help="visible share of an object to keep it"
    )
    parser.add_argument("--drop_empty", action="store_true", help="leave out tiles without objects")
    parser.add_argument("--no_labels", action="store_true", help="a test set: there is no labelTxt/")
    parser.add_argument("--format", choices=("png", "jpg"), default="png", help="of the tiles")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    args = parser.parse_args(argv)
    if args.tile_size < 32 or not 0 <= args.overlap < 1 or not 0 < args.min_visible <= 1 or args.workers < 1:
        parser.error("tile_size >= 32, 0 <= overlap < 1, 0 < min_visible <= 1 and workers >= 1 are needed")
    options = SplitOptions(
        class_names=CLASSES[args.version],
        tile_size=args.tile_size,
        overlap=args.overlap,
        min_visible=args.min_visible,
        keep_empty=not args.drop_empty,
        suffix=f".{args.format}",
    )
    print(split_set(args.src, args.out, args.split, options, args.workers, not args.no_labels))
    return 0
