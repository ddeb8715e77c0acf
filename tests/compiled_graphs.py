"""Run by tests/test_operators.py: compiles training steps and the inference graph, whose IR MindSpore leaves.

    python tests/compiled_graphs.py FOLDER

Each graph leaves FOLDER/<name>/*_validate_*.ir, the graph before a device's own passes, which any machine writes.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.runtime.device import prepare_environment

prepare_environment()
os.environ |= {"MS_DEV_SAVE_GRAPHS": "1", "MS_DEV_DUMP_IR_PASSES": "validate"}  # read at MindSpore's import

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402

from src.config import load_config  # noqa: E402
from src.detect.network_backend import NetworkBackend  # noqa: E402
from src.train.network_setup import set_precision  # noqa: E402
from src.train.train_setup import create_forward, create_optimizer, create_rates, create_train_step  # noqa: E402
from src.train.update import LossScaler, MovingAverage  # noqa: E402
from src.yolo import build_network  # noqa: E402
from tests.tiny import OPTIONS  # noqa: E402

STEPS = {
    "step": [],
    "mixed": ["--ms_amp_level=O2", "--ema_decay=0.9", "--clip_norm=5", "--optimizer=adam", "--box_loss=ciou"],
}
SIDE = 64


def compile_step(words: list[str]) -> None:
    """The step of a batch of two, as the trainer makes it."""
    config = load_config([*OPTIONS, *words])
    network = build_network(config)
    set_precision(network, config.ms_amp_level)
    optimizer = create_optimizer(config, network, create_rates(config, 5))
    scaler = LossScaler(config.amp_loss_scale, config.amp_dynamic) if config.ms_amp_level != "O0" else None
    average = MovingAverage(network, config.ema_decay) if config.ema_decay else None
    step = create_train_step(config, create_forward(config, network), optimizer, scaler, average, 1)
    step.compile(
        ms.Tensor(np.zeros((2, 3, SIDE, SIDE), np.uint8)), ms.Tensor(np.zeros((2, 20, 5), np.float32))
    )


def compile_inference() -> None:
    """Network and decoder."""
    config = load_config(OPTIONS)
    network = build_network(config).set_train(False)
    NetworkBackend(network, config).predict(np.zeros((1, 3, SIDE, SIDE), np.uint8))


if __name__ == "__main__":
    ms.set_context(mode=ms.GRAPH_MODE)
    for name in sys.argv[2:]:
        ms.set_context(save_graphs_path=str(Path(sys.argv[1]) / name))
        compile_step(STEPS[name]) if name in STEPS else compile_inference()
