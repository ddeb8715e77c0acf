"""Rename the parameters of a CSPDarknet53 checkpoint between the model zoo's names and MindYOLO's.

A file with the model zoo's names, such as that of the ImageNet classifier, gets MindYOLO's, and one with MindYOLO's
gets the model zoo's, which are ours. train.py --pretrained_backbone takes either, converted or not. Called
without arguments it does what MindYOLO's script of this name does, with the same two file names.
"""

import argparse
from pathlib import Path

from ..base.errors import reports_mistakes
from ..runtime.device import prepare_environment

ORI_WEIGHT = "./cspdarknet53_ascend_v120_imagenet2012_official_cv_bs64_top1acc7854_top5acc9428.ckpt"
NEW_WEIGHT = "./yolov4_backbone.ckpt"


def convert_weight(ori_weight: str | Path, new_weight: str | Path) -> None:
    """Rename the backbone's parameters of `ori_weight` and print how many there are."""
    prepare_environment()  # before anything imports MindSpore
    from ..weights.convert import rename_backbone

    print(rename_backbone(Path(ori_weight), Path(new_weight)))


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options and convert; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ori_weight", nargs="?", default=ORI_WEIGHT, help=f"file to read [{ORI_WEIGHT}]")
    parser.add_argument("new_weight", nargs="?", default=NEW_WEIGHT, help=f"file to write [{NEW_WEIGHT}]")
    args = parser.parse_args(argv)
    convert_weight(args.ori_weight, args.new_weight)
    return 0
