"""The network in memory, or from a `.ckpt`, as something that turns pictures into decoded boxes."""

import mindspore as ms
import numpy as np
from mindspore import nn

from src.config import Config
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
        downsample_padding=config.downsample_padding,
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
    """Decoded boxes from the network in memory."""

    def __init__(self, network: YoloV4, config: Config):
        self.network = network
        decoder = YoloDecoder(config.anchor_scales, config.scale_x_y)
        self._predict = _Predict(
            Normalize(config.image_mean, config.image_std), YoloDetector(network, decoder)
        )

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """Decoded maps of strides 32, 16, 8: (N, H, W, 3, 5 + classes) each, boxes x y w h in 0..1.

        Args:
            images: (N, 3, H, W) uint8 RGB.
        """
        self.network.set_train(False)
        return [output.asnumpy() for output in self._predict(ms.Tensor(images))]
