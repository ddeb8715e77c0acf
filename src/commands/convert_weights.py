"""Convert weights between this network, the published one, MindYOLO, Darknet and PyTorch.

--from takes a MindSpore .ckpt (ours, published or MindYOLO's), Darknet .weights (yolov4.weights,
yolov4.conv.137, a CSPDarknet53 classifier) or a PyTorch state dict. --out NAME.ckpt is for train.py and eval.py,
NAME.weights, with NAME.cfg and NAME.names beside it, for Darknet and OpenCV 4. The network (labels,
backbone_shape, lateral_kernel, ...) is described as for train.py: --config FILE, --NAME=VALUE.
"""

from pathlib import Path

from ..base.errors import reports_mistakes
from ..config import load_config
from ..options.tool_parser import tool_parser
from ..runtime.device import prepare_environment


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options, convert and print what matched; the exit code."""
    parser = tool_parser(__doc__, "--config FILE and --NAME=VALUE describe the network; see train.py --help")
    parser.add_argument("--from", dest="source", type=Path, required=True, help="file to read")
    parser.add_argument("--out", type=Path, required=True, help="file to write: NAME.ckpt or NAME.weights")
    parser.add_argument(
        "--bn_epsilon",
        type=float,
        help="what the source's BatchNorm adds to the variance; by default 0.001 for MindYOLO, else 0.00001 "
        "(0.0001 for PyTorch versions that came from YOLOv3's)",
    )
    prepare_environment()  # before anything imports MindSpore
    args, rest = parser.parse_known_args(argv)
    config = load_config(rest)
    from ..weights.convert import convert

    result = convert(config, args.source, args.out, args.bn_epsilon)
    print("; ".join([f"{args.source}: {len(result.values)} parameters matched", *result.notes]))
    print(f"{args.out}; {args.out}.tsv tells where each parameter came from")
    return 0
