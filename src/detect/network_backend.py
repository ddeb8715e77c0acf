"""The network in memory, or from a `.ckpt`, as something that turns images into decoded boxes."""

import mindspore as ms
import numpy as np
from mindspore import nn

from ..config import Config
from ..logger import get_logger
from ..weights.carried import with_checkpoint_options
from ..weights.checkpoint import read_checkpoint
from ..weights.loading import load_network
from ..yolo import Normalize, YoloDecoder, YoloDetector, YoloV4, build_network
from .predictions import MapBackend
from .settings import ModelSettings


class _Predict(nn.Cell):
    """uint8 images to decoded maps."""

    def __init__(self, normalize: nn.Cell, detector: nn.Cell):
        super().__init__(auto_prefix=False)
        self.normalize = normalize
        self.detector = detector

    def construct(self, images):
        return self.detector(self.normalize(images))


class NetworkBackend(MapBackend):
    """Decoded boxes from the network in memory; a `src.detect.backends.Backend`."""

    def __init__(self, network: YoloV4, config: Config):
        self.network, self.settings = network, ModelSettings.from_config(config)
        decoder = YoloDecoder(config.heads)
        self._predict = _Predict(
            Normalize(config.image_mean, config.image_std), YoloDetector(network, decoder)
        )

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """See `MapBackend`."""
        self.network.set_train(False)
        return [output.asnumpy() for output in self._predict(ms.Tensor(images))]


def load_trained(config: Config, path: str) -> tuple[YoloV4, Config]:
    """The network of a checkpoint, and the options as it completes them.

    Raises:
        UserError: no readable checkpoint, or weights that do not fit the options.
    """
    values, state = read_checkpoint(path)
    config = with_checkpoint_options(config, path, state, values)
    network = build_network(config)
    get_logger().info("load %s", load_network(network, path, values=values))
    return network, config
