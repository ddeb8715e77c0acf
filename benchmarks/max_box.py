"""Time of a training step with room for 600 boxes an image against 90, and the share of the loss in it.

Full network, both on the same device, in turn. `max_box` 600 is measured with as many objects as in the other
run (what a larger limit costs where it is not needed) and full of objects (the worst case).

    python -m benchmarks.max_box --size 416 --batch 2 --steps 5
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.runtime.device import guard_cpu_kernels

guard_cpu_kernels()  # before anything imports MindSpore

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Tensor  # noqa: E402

from src.base.heads import STRIDES  # noqa: E402
from src.loss import YoloLoss  # noqa: E402
from src.train.optimizer import create_momentum  # noqa: E402
from src.train.train_step import ForwardLoss, TrainStep  # noqa: E402
from src.train.update import Update  # noqa: E402
from src.yolo import Normalize, YoloV4  # noqa: E402


def random_boxes(rng, batch: int, max_box: int, objects: int, size: int, classes: int) -> np.ndarray:
    """(batch, max_box, 5) boxes of 8 to 60 pixels, the first `objects` rows filled."""
    centre, sides = rng.uniform(0, size, (batch, max_box, 2)), rng.uniform(8, 60, (batch, max_box, 2))
    corners = np.concatenate([centre - sides / 2, centre + sides / 2], -1).clip(0, size)
    boxes = np.concatenate([corners, rng.integers(0, classes, (batch, max_box, 1))], -1)
    boxes[:, objects:] = 0
    return boxes.astype(np.float32)


def median_times(runs: dict, steps: int) -> dict:
    """Median seconds of each run. They take turns, so that the machine's other work falls on all alike."""
    times = {case: [] for case in runs}
    for _ in range(steps + 2):
        for case, run in runs.items():
            start = time.perf_counter()
            run().asnumpy()
            times[case].append(time.perf_counter() - start)
    # The first two compile and warm up.
    return {case: statistics.median(spent[2:]) for case, spent in times.items()}


def main() -> None:
    """Parse the options, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=416, help="side of the input, a multiple of 32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--steps", type=int, default=5, help="steps of which the median is taken")
    options = parser.parse_args()
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    size, batch, classes = options.size, options.batch, options.classes
    images = Tensor(rng.integers(0, 256, (batch, 3, size, size), dtype=np.uint8))
    raw = [
        Tensor(rng.normal(0, 1, (batch, 3 * (5 + classes), size // s, size // s)).astype(np.float32))
        for s in STRIDES
    ]

    network, loss = YoloV4(classes), YoloLoss(classes)
    # A rate of zero: the network stays the same, whatever is measured first.
    optimizer = create_momentum(
        network, np.zeros(10_000, np.float32), momentum=0.9, weight_decay=0.0005, loss_scale=64
    )
    step = TrainStep(ForwardLoss(Normalize(), network, loss), Update(optimizer)).set_train()
    gradients_of_loss = ms.jit(ms.value_and_grad(loss, grad_position=(0, 1, 2), has_aux=True))

    step_runs, loss_runs = {}, {}
    for max_box, objects in ((90, 90), (600, 90), (600, 600)):
        boxes = Tensor(random_boxes(rng, batch, max_box, objects, size, classes))
        step_runs[max_box, objects] = lambda boxes=boxes: step(images, boxes)[0]
        loss_runs[max_box, objects] = lambda boxes=boxes: gradients_of_loss(*raw, boxes)[1][2]
    losses, steps = median_times(loss_runs, 3 * options.steps), median_times(step_runs, options.steps)
    for case, seconds in steps.items():
        print(
            f"max_box {case[0]}, {case[1]} objects: step {seconds:.3f} s, loss and targets with gradients "
            f"{losses[case] * 1000:.0f} ms ({losses[case] / seconds:.1%}), "
            f"{seconds / steps[90, 90]:.3f} of max_box 90"
        )


if __name__ == "__main__":
    main()
