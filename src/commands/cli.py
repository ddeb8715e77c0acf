"""The console command: `yolov4 COMMAND --option=value ...`."""

import difflib
import sys
from importlib import import_module

from .. import __version__
from ..base.errors import UserError, reports_mistakes, shown

# Command: its module in this folder, and its line in the help.
COMMANDS = {
    "train": ("train", "train on a data set in COCO's format"),
    "eval": ("eval", "score a checkpoint on the validation set"),
    "test": ("test", "detect in a test set, as COCO JSON or DOTA's submission"),
    "export": ("export", "write a checkpoint as MINDIR, ONNX, OM or AIR"),
    "predict": ("inference", "detect in images, folders, lists and whole scenes"),
    "check": ("check_dataset", "look through a data set for problems"),
    "convert": ("convert_to_coco", "VOC, YOLO or DOTA labels to COCO's format"),
    "split": ("split_dota", "cut DOTA scenes into tiles"),
    "anchors": ("make_anchors", "find anchors for a data set's own boxes"),
    "sample": ("make_sample", "draw a sample of aerial scenes to try things on"),
    "weights": ("convert_weights", "weights of MindYOLO, Darknet or PyTorch, to and fro"),
    "batches": ("show_batch", "draw training batches as the network is fed them"),
}
_WIDTH = max(map(len, COMMANDS)) + 2
HELP = "\n".join(
    [
        "usage: yolov4 COMMAND [--help] [--NAME=VALUE ...]",
        "",
        "YOLOv4 for remote sensing on MindSpore.",
        "",
        "commands:",
        *(f"  {name:<{_WIDTH}}{line}" for name, (_, line) in COMMANDS.items()),
        "",
        "`yolov4 COMMAND --help` lists the options of a command; `yolov4 --version` says which version this is.",
    ]
)


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Run the command that the first word names with the words after it; the exit code.

    Raises:
        UserError: no such command.
    """
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        print(f"yolov4 {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"yolov4: no command {shown(name)!r}; {hint}")
    sys.argv[0] = f"yolov4 {name}"  # what the command's own help calls it
    return import_module(f".{COMMANDS[name][0]}", __package__).main(rest)
