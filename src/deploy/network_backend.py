"""The network in memory, or from a `.ckpt`, as something that turns pictures into decoded boxes."""

import mindspore as ms
import numpy as np
from mindspore import nn

from src.checkpoint import load_network
from src.config import Config
from src.deploy.settings import ModelSettings
from src.logger import get_logger
from src.yolo import Normalize, YoloDecoder, YoloDetector, YoloV4


def build_network(config: Config) -> YoloV4:
    """The network that the options describe, with MindSpore's own initial weights."""
    return YoloV4(
        config.num_classes,
        backbone_input_shape=config.backbone_input_shape,
        backbone_shape=config.backbone_shape,
        backbone_layers=config.backbone_layers,
        backbone_activation=config.backbone_activation,
        neck_activation=config.neck_activation,
        lateral_kernel=config.lateral_kernel,
    )


class _Predict(nn.Cell):
    """uint8 pictures to decoded maps."""

    def __init__(self, normalize: nn.Cell, detector: nn.Cell):
        super().__init__(auto_prefix=False)
        self.normalize = normalize
        self.detector = detector

    def construct(self, images):
        return self.detector(self.normalize(images))


class NetworkBackend:
    """Decoded boxes from the network in memory; a `src.deploy.backends.Backend`."""

    def __init__(self, network: YoloV4, config: Config):
        self.network, self.settings = network, ModelSettings.from_config(config)
        decoder = YoloDecoder(config.anchor_scales, config.scale_x_y)
        self._predict = _Predict(
            Normalize(config.image_mean, config.image_std), YoloDetector(network, decoder)
        )

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """See `Backend`."""
        self.network.set_train(False)
        return [output.asnumpy() for output in self._predict(ms.Tensor(images))]


def load_network_backend(config: Config) -> NetworkBackend:
    """The network of the options with the weights of `pretrained` (UserError where they do not fit)."""
    network = build_network(config)
    get_logger().info("load %s", load_network(network, config.pretrained))
    return NetworkBackend(network, config)
