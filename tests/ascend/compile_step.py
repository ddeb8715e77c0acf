"""Run in a dry run's environment: compile the graphs of the options for Ascend, as a run and the backend build them.

    python compile_step.py --cases=train,infer [--option=value ...]

Prints a line in front of each case and one behind it; MindSpore's log comes between. Exit code 1 if one failed.
Processes that are given one file in `DRY_RUN_TURN` take turns, in no order; msrun's scheduler is MindSpore's own.
"""

import atexit
import contextlib
import fcntl
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.runtime.device import prepare_environment

prepare_environment()

from src.config import Config, load_config  # noqa: E402
from tests.ascend.stubs import GE_BEGINS, TURN  # noqa: E402


def build(config: Config, runtime):
    """The network and its loss, as a run builds them."""
    from src.layers.batch_norm import synchronise_batch_norm
    from src.train.network_setup import freeze, set_precision
    from src.train.train_setup import create_forward
    from src.yolo import build_network

    network = build_network(config)
    if config.sync_bn and runtime.group_size > 1:
        synchronise_batch_norm(network, runtime.group_size)
    freeze(network, config.freeze)
    set_precision(network, config.ms_amp_level)
    return network, create_forward(config, network)


def batch(config: Config):
    """Images and boxes of one part of a step."""
    import mindspore as ms
    import numpy as np

    size = config.per_batch_size // config.accumulate
    boxes = np.zeros((size, config.max_box, 5), np.float32)
    boxes[:, 0] = 10, 10, 60, 60, 1
    return ms.Tensor(np.zeros((size, 3, *config.train_shapes[0]), np.uint8)), ms.Tensor(boxes)


def train_graphs(config: Config, runtime):
    """The cells of a training step and their inputs."""
    from src.train.train_setup import create_optimizer, create_rates, create_train_step
    from src.train.update import LossScaler, MovingAverage

    network, forward = build(config, runtime)
    optimizer = create_optimizer(config, network, create_rates(config, 10))
    is_half = config.ms_amp_level != "O0"
    scaler = LossScaler(config.amp_loss_scale, config.amp_dynamic) if is_half else None
    average = MovingAverage(network, config.ema_decay) if config.ema_decay else None
    step = create_train_step(config, forward, optimizer, scaler, average, runtime.group_size)
    if config.accumulate > 1:
        return [(step.add, batch(config)), (step.apply, ())]
    return [(step, batch(config))]


def attack_graphs(config: Config, runtime):
    """The cell that changes the images in self-adversarial training."""
    from src.train.adversarial import SelfAdversary

    network, forward = build(config, runtime)
    network.set_train(False)
    return [(SelfAdversary(forward, config.self_adversarial_strength), batch(config))]


def infer_graphs(config: Config, runtime):
    """The network with its decoder, as an evaluation calls it."""
    import mindspore as ms

    from src.detect.network_backend import NetworkBackend

    network, _ = build(config, runtime)
    cells = (cell for cell in vars(NetworkBackend(network, config)).values() if isinstance(cell, ms.nn.Cell))
    predict = next(cell for cell in cells if cell is not network)
    predict.set_train(False)
    return [(predict, batch(config)[:1])]


# Name: what is compiled, and the options that it adds. Few graphs with many options each: compiling is what costs.
HALF = ["--ms_amp_level=O2", "--ema_decay=0.99", "--clip_norm=10"]
CASES = {
    "train": (train_graphs, []),
    "mixed": (train_graphs, [*HALF, "--drop_block=0.1"]),
    # A frozen backbone has neither gradients nor statistics over ranks: half the time, the same operators.
    "ranks": (train_graphs, [*HALF, "--sync_bn=1", "--freeze=feature_map.backbone"]),
    "parts": (train_graphs, ["--accumulate=2", "--cmbn=1", "--box_loss=ciou", "--drop_block=0.1"]),
    "attack": (attack_graphs, ["--self_adversarial=0.5"]),
    "infer": (infer_graphs, []),
}


def compile_case(name: str, words: list[str]) -> bool:
    """Compile the graphs of a case; whether they got to the end, or to GE's conversion."""
    graphs, options = CASES[name]
    print(f"DRY RUN: begin {name}", flush=True)
    for cell, inputs in graphs(load_config([*words, *options]), RUNTIME):
        try:
            cell.compile(*inputs)
            end = "compiled"
        except Exception as error:
            if GE_BEGINS not in str(error):
                print(f"DRY RUN: failed {name}: {' '.join(str(error).split())[:300]}", flush=True)
                return False
            end = "converts"
    print(f"DRY RUN: {end} {name}", flush=True)
    return True


@contextlib.contextmanager
def turn():
    """Wait until no other process of the same `DRY_RUN_TURN` compiles: eight at once take two cores very long."""
    if TURN not in os.environ:
        yield
        return
    with Path(os.environ[TURN]).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        began = time.process_time()
        yield
        print(f"DRY RUN: compiled in {time.process_time() - began:.0f} s of processor time", flush=True)


def leave_cluster() -> None:
    """Tell msrun's scheduler that this rank has ended, as the end of Python would."""
    if os.environ.get("MS_ROLE") == "MS_WORKER":
        atexit._run_exitfuncs()


if __name__ == "__main__":
    cases = sys.argv[1].removeprefix("--cases=").split(",")
    rest = [*sys.argv[2:], "--device_target=Ascend"]
    from src.runtime.device import setup_runtime

    RUNTIME = setup_runtime(load_config(rest))
    with turn():  # all ranks have joined: msrun's scheduler waits for them
        done = [compile_case(name, rest) for name in cases]
    leave_cluster()
    os._exit(0 if all(done) else 1)  # MindSpore's own end would talk to the card
