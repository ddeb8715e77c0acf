"""Convert a labelled data set (PASCAL VOC, YOLO text, DOTA) to COCO's format, as train.py's data_dir.

--src has, for voc, Annotations/ and JPEGImages/ (and ImageSets/Main/{train,val}.txt); for yolo, images/ and labels/
(by folders train and val, by lists, or by a data.yaml); for dota, images/ and labelTxt/, or these in train/ and val/.
Where the source has no split of its own, a share of the images is held out by chance.
"""

from pathlib import Path

from ..base.errors import UserError, reports_mistakes
from ..datasets.dota_labels import CLASSES
from ..datasets.formats.coco_writer import PLACING, WriteOptions, write_coco
from ..datasets.formats.dota_scenes import read_dota
from ..datasets.formats.labelled import DEFAULT_VAL_SHARE, ReadOptions
from ..datasets.formats.voc import read_voc
from ..datasets.formats.yolo_txt import read_yolo
from ..options.tool_parser import tool_parser

READERS = {"voc": read_voc, "yolo": read_yolo, "dota": read_dota}


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options, convert and print the counts; the exit code."""
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--format", choices=READERS, required=True, help="of the labels")
    add("--src", type=Path, required=True, help="folder of the data set")
    add("--out", type=Path, required=True, help="data set to write: annotations/, train/ and val/")
    add("--labels", type=_names, help="classes in the order of the network's outputs, such as ship,plane")
    add("--names", help="yolo: classes in the order of their numbers: a file, a data.yaml, or ship,plane")
    add("--version", choices=CLASSES, default="1.5", help="dota: version of the classes [1.5]")
    add(
        "--val_share",
        type=float,
        help=f"share held out by chance [the source's split, else {DEFAULT_VAL_SHARE}]",
    )
    add("--seed", type=int, default=1, help="of the draw [1]")
    add("--train_split", default="train", help="list or folder that becomes train [train]")
    add("--val_split", default="val", help="list or folder that becomes val [val]")
    add("--images", type=Path, help="folder of the images, where it is another")
    add("--annotations", type=Path, help="folder of the label files, where it is another")
    add(
        "--placing",
        "--pictures",  # as it was called at first
        choices=PLACING,
        default="link",
        help="symbolic links to the images, or copies [link]",
    )
    add("--drop_other_classes", action="store_true", help="leave out objects that --labels does not name")
    add("--ignore_difficult", action="store_true", help="objects marked difficult are no targets")
    add("--skip_missing", action="store_true", help="leave out labels whose images are missing")
    add("--zero_based", action="store_true", help="voc: coordinates count from 0, not from 1")
    args = parser.parse_args(argv)
    if args.seed < 0 or not 0 <= (args.val_share or 0) < 1:
        parser.error("seed >= 0 and 0 <= val_share < 1 are needed")
    if not args.src.is_dir():
        raise UserError(f"--src: {args.src} is no folder")
    found = READERS[args.format](args.src, _read_options(args))
    result = write_coco(
        found,
        args.out,
        WriteOptions(args.labels, args.drop_other_classes, args.ignore_difficult, args.placing),
    )
    print(result)
    return 0


def _read_options(args) -> ReadOptions:
    names = None
    if args.format == "dota":
        names = CLASSES[args.version]
    elif args.names:
        is_file = Path(args.names).is_file() or Path(args.names).suffix in (".txt", ".names", ".yaml", ".yml")
        names = Path(args.names) if is_file else _names(args.names)
    return ReadOptions(
        split_names=(args.train_split, args.val_split),
        val_share=args.val_share,
        seed=args.seed,
        images=args.images,
        annotations=args.annotations,
        skip_missing=args.skip_missing,
        zero_based=args.zero_based,
        names=names,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
