"""One batch through the training step: the adversary before it, and the compile cache around the first one."""

from pathlib import Path

import mindspore as ms
import numpy as np

from ..config import Config
from ..data_loader import TrainBatch
from .adversarial import SelfAdversary
from .compile_cache import CompileCache
from .train_step import AccumulatedStep, TrainStep


class BatchStep:
    """Trains on a batch.

    Args:
        config: `self_adversarial` and `compile_cache` act here.
        train_step: the compiled step.
        adversary: changes images so that their objects are overlooked.
        network: what both of them run.
        total_steps: of the run, which shape the graph as its learning rates do.
        is_alone: whether this is the only process.
    """

    def __init__(
        self,
        config: Config,
        train_step: TrainStep | AccumulatedStep,
        adversary: SelfAdversary,
        network: ms.nn.Cell,
        *,
        total_steps: int,
        is_alone: bool,
    ):
        self.config, self.train_step, self.adversary, self.network = config, train_step, adversary, network
        self.total_steps = total_steps
        # The cache is of one graph a run: later shapes of multi-scale training are compiled.
        self.takes_cache = bool(config.compile_cache) and is_alone and config.accumulate == 1

    def __call__(self, batch: TrainBatch, step: int) -> tuple[float, np.ndarray]:
        """The loss before the update, and its (3,) box, objectness and class parts.

        Args:
            batch: images and boxes.
            step: steps done so far.
        """
        images, boxes = ms.Tensor(batch.images), ms.Tensor(batch.boxes)
        if self._is_adversarial(step):
            self.network.set_train(False)
            images = self.adversary(images, boxes)
            self.set_train()
        total, parts = self._cached(images, boxes) if self.takes_cache else self.train_step(images, boxes)
        return float(total.asnumpy()), parts.asnumpy().sum(axis=0)

    def set_train(self) -> None:
        """Training mode, after the network was used for something else."""
        self.train_step.set_train()

    def _cached(self, images: ms.Tensor, boxes: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """The first step, whose graph comes from the compile cache or goes there."""
        inputs = [images.shape, boxes.shape, self.total_steps]
        with CompileCache(Path(self.config.compile_cache), self.config, inputs).use():
            result = self.train_step(images, boxes)
        self.takes_cache = False
        return result

    def _is_adversarial(self, step: int) -> bool:
        """Whether this step trains on images that the network has changed; the same draw after a resume."""
        if not self.config.self_adversarial:
            return False
        return np.random.default_rng((self.config.seed, step)).random() < self.config.self_adversarial
