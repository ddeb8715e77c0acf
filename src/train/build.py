"""All that a training run works with, made from the options: data, network, optimizer, step. Writes no file."""

from dataclasses import dataclass

import numpy as np

from ..config import Config
from ..data_loader import TrainLoader
from ..detect.network_backend import NetworkBackend
from ..evaluation.session import load_validation_set
from ..logger import get_logger
from ..runtime.device import Runtime
from ..yolo import YoloV4, build_network
from ..yolo_dataset import DetectionSet
from .adversarial import SelfAdversary
from .batch_step import BatchStep
from .learning_checks import warnings_before
from .network_setup import prepare_network
from .optimizer import optimizer_slots
from .start import RESUME, Start, load_start, start_options
from .state import TrainState
from .train_setup import (
    create_forward,
    create_optimizer,
    create_rates,
    create_train_loader,
    create_train_step,
)
from .update import LossScaler, MovingAverage


@dataclass(frozen=True)
class Parts:
    """What a run works with.

    Attributes:
        loader: batches of the training set.
        validation_set: what is evaluated on the way; None without.
        backend: the network as evaluation runs it.
        rates: learning rate of each step, float32.
        average: moving average of the network's parameters; None without.
        step: trains on a batch.
        state: where the run is, from its start on.
    """

    loader: TrainLoader
    validation_set: DetectionSet | None
    backend: NetworkBackend
    rates: np.ndarray
    average: MovingAverage | None
    step: BatchStep
    state: TrainState

    @property
    def network(self) -> YoloV4:
        """The network that is trained."""
        return self.backend.network


def build(config: Config, runtime: Runtime, start: Start | None = None) -> Parts:
    """Make the parts of a run, with the weights and the state of its start.

    Raises:
        UserError: options, data or a start that do not fit.
    """
    loader = create_train_loader(config, runtime)
    get_logger().info(loader.dataset.describe())
    validation_set = load_validation_set(config) if config.run_eval else None
    backend = NetworkBackend(build_network(config), config)
    network = backend.network
    rates = create_rates(config, loader.steps_per_epoch)
    if runtime.is_master:
        _warn_of_oddities(config, loader.dataset, validation_set, rates)

    prepare_network(network, config, runtime.group_size)
    weights = list(network.get_parameters())  # without what training adds
    optimizer = create_optimizer(config, network, rates)
    slots = [*optimizer_slots(optimizer)]
    scaler = average = None
    if config.ema_decay:
        average = MovingAverage(network, config.ema_decay)
        slots += [*average.averages, average.updates]
    if config.ms_amp_level != "O0":
        scaler = LossScaler(config.amp_loss_scale, config.amp_dynamic)
        slots += [scaler.scale, scaler.good_steps]
    state = TrainState(weights, slots, optimizer.global_step, loader.steps_per_epoch, runtime.group_size)
    _begin_with(start, config, network, state, is_master=runtime.is_master)
    if average is not None and state.step == 0:
        average.reset()

    # After the weights are loaded: a step in parts adds parameters to the network.
    forward = create_forward(config, network)
    adversary = SelfAdversary(forward, config.self_adversarial_strength)
    train_step = create_train_step(config, forward, optimizer, scaler, average, runtime.group_size)
    step = BatchStep(
        config, train_step, adversary, network, total_steps=len(rates), is_alone=runtime.group_size == 1
    )
    return Parts(loader, validation_set, backend, rates, average, step, state)


def _warn_of_oddities(
    config: Config, train: DetectionSet, validation: DetectionSet | None, rates: np.ndarray
) -> None:
    shapes = sorted(config.train_shapes)
    anchors = np.array(config.anchor_scales)
    for line in warnings_before(train, validation, rates, anchors, shapes[len(shapes) // 2]):
        get_logger().warning("%s", line)


def _begin_with(
    start: Start | None, config: Config, network: YoloV4, state: TrainState, *, is_master: bool
) -> None:
    """Put what the run starts from into the network and the state, and say what it is."""
    taken, *passed_over = start_options(config) or [""]
    for option in passed_over:
        get_logger().warning("%s is not loaded: %s comes first", option, taken)
    for line in start.passed_by if start is not None else ():
        get_logger().warning("passed by: %s", line)
    if start is not None:
        get_logger().info("%s %s", start.kind, load_start(network, start, config))
        if start.kind == RESUME:
            state.restore(start, with_sums=is_master)
    elif is_master:
        get_logger().warning(
            "training starts from random weights: none of pretrained_backbone, pretrained_checkpoint and "
            "resume is given"
        )
