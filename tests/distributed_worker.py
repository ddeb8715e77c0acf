"""Run by msrun in tests/test_distributed.py: a few steps or an evaluation; each rank writes what it holds."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.runtime.device import prepare_environment

prepare_environment()

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import nn  # noqa: E402

from src.config import load_config  # noqa: E402
from src.detect.network_backend import NetworkBackend  # noqa: E402
from src.evaluation.session import evaluate_set, load_validation_set  # noqa: E402
from src.initializer import initialize  # noqa: E402
from src.runtime.device import setup_runtime  # noqa: E402
from src.train.run import start_run  # noqa: E402
from src.train.train_step import TrainStep  # noqa: E402
from src.train.update import LossScaler  # noqa: E402
from src.yolo import build_network  # noqa: E402
from tests.test_train_step import IMAGES, TARGETS, build  # noqa: E402


def train_steps(config, runtime, out: Path, steps: int) -> None:
    """The weights after each step, and the images of each."""
    started = start_run(config, runtime)
    if "--freeze_bn" in FLAGS:
        for _, cell in started.parts.network.cells_and_names():
            if isinstance(cell, nn.BatchNorm2d):
                cell.use_batch_statistics = False
    values, done = {}, 0
    for epoch in range(config.max_epoch):
        for batch in started.parts.loader.epoch(epoch):
            started.parts.step.train_step(ms.Tensor(batch.images), ms.Tensor(batch.boxes))
            done += 1
            for parameter in started.parts.network.trainable_params():
                values[f"{done}:{parameter.name}"] = parameter.asnumpy().copy()
            for parameter in started.parts.network.untrainable_params():
                values[f"{done}/{parameter.name}"] = parameter.asnumpy().copy()
            values[f"{done}/pictures"] = np.array([path.name for path in batch.paths])
            values[f"{done}/shape"] = np.array(batch.images.shape[2:])
            if done == steps:
                np.savez(out / f"rank{runtime.rank}.npz", **values)
                return


def evaluate(config, runtime, out: Path) -> None:
    """The gathered table and the twelve numbers."""
    network = build_network(config)
    initialize(network, config.seed)
    found = evaluate_set(NetworkBackend(network, config), load_validation_set(config), config, out, runtime)
    np.savez(out / f"rank{runtime.rank}.npz", table=found.table, stats=np.array(found.result.stats))


def overflow(runtime, out: Path) -> None:
    """One step in which all gradients are finite, one in which rank 1 alone reports an overflow."""
    scaler = LossScaler(8.0, True)
    network, step, _ = build(scaler=scaler, group_size=runtime.group_size)
    batch = ms.Tensor(IMAGES[runtime.rank]), ms.Tensor(TARGETS[runtime.rank])
    values = {}
    step(*batch)
    values["good"], values["good_scale"] = network.weight.asnumpy().copy(), scaler.scale.asnumpy().copy()
    if runtime.rank == 1:
        ms.amp.all_finite = report_overflow
    again = TrainStep(step.gradients.loss.forward_loss, step.update).set_train()  # another graph
    again(*batch)
    values["left_out"], values["left_out_scale"] = network.weight.asnumpy(), scaler.scale.asnumpy()
    np.savez(out / f"rank{runtime.rank}.npz", **values)


def report_overflow(gradients):
    """In the place of `all_finite`: what a device says whose register noted an overflow."""
    return ms.ops.sum(gradients[0] * 0) > 0


if __name__ == "__main__":
    mode, out_dir = sys.argv[1], Path(sys.argv[2])
    FLAGS = [word for word in sys.argv[3:] if word == "--freeze_bn"]
    options = load_config([word for word in sys.argv[3:] if word not in FLAGS])
    place = setup_runtime(options)
    out_dir.mkdir(parents=True, exist_ok=True)
    if mode == "train":
        train_steps(options, place, out_dir, steps=5)
    elif mode == "overflow":
        overflow(place, out_dir)
    else:
        evaluate(options, place, out_dir)
