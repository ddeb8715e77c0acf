"""Draw augmented training batches as the network is fed them: boxes, and the anchors that they are assigned to.

data_dir, the augmentation and all else are options as of train.py (--config FILE, --NAME=VALUE).
"""

from itertools import islice
from pathlib import Path

from ..base.errors import reports_mistakes
from ..config import Config, load_config
from ..options.tool_parser import tool_parser
from ..runtime.device import prepare_environment


def draw_batches(config: Config, epoch: int, batches: int, columns: int, out: Path) -> list[Path]:
    """Write a contact sheet of each of the first batches of an epoch; the files.

    Raises:
        UserError: the data set cannot be read or the folder cannot be written to.
    """
    import mindspore as ms
    import numpy as np

    from ..imaging.image_io import write_image
    from ..runtime.device import Runtime
    from ..targets import TargetAssigner
    from ..train.assignment_view import assigned_anchors, contact_sheet, draw_sample
    from ..train.train_setup import create_train_loader

    loader = create_train_loader(config, Runtime())
    assigner = TargetAssigner(config.num_classes, config.heads)
    strides = config.heads.strides
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for number, batch in enumerate(islice(loader.epoch(epoch), batches)):
        input_hw = tuple(batch.images.shape[2:])
        assigned, truth, _, _ = (value.asnumpy() for value in assigner(ms.Tensor(batch.boxes), input_hw))
        images = []
        for row, path in enumerate(batch.paths):
            rows = batch.boxes[row]
            rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])]
            found = assigned_anchors(assigned[row], truth[:, row], input_hw, config.heads)
            image = np.ascontiguousarray(batch.images[row].transpose(1, 2, 0))
            images.append(
                draw_sample(
                    image, rows[:, :4], rows[:, 4].astype(int), found, strides, config.labels, path.name
                )
            )
        target = out / f"epoch{epoch}_batch{number}.png"
        write_image(target, contact_sheet(images, columns))
        written.append(target)
    return written


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options and draw; the exit code."""
    parser = tool_parser(
        __doc__, "further options as of train.py: --data_dir, --config, --mosaic, --per_batch_size, ..."
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/batches"), help="folder [outputs/batches]")
    parser.add_argument("--batches", type=int, default=2, help="how many [2]")
    parser.add_argument("--epoch", type=int, default=0, help="epoch whose draws are shown, from 0 [0]")
    parser.add_argument("--columns", type=int, default=2, help="images side by side [2]")
    args, rest = parser.parse_known_args(argv)
    if args.batches < 1 or args.epoch < 0 or args.columns < 1:
        parser.error("--batches and --columns must be 1 or more and --epoch 0 or more")
    prepare_environment()  # before anything imports MindSpore
    from ..runtime.device import setup_runtime

    config = load_config(rest).replace(device_target="CPU", is_distributed=False)
    setup_runtime(config)
    for path in draw_batches(config, args.epoch, args.batches, args.columns, args.out):
        print(path)
    return 0
