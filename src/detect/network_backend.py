"""The network in memory, or from a `.ckpt`, as something that turns pictures into decoded boxes."""

from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn

from src.config import Config, overlay
from src.detect.settings import ModelSettings, check_class_order
from src.layers.batch_norm import configure_batch_norm
from src.logger import get_logger
from src.weights.checkpoint import load_network, read_checkpoint
from src.yolo import Normalize, YoloDecoder, YoloDetector, YoloV4

# What our checkpoints carry, so that nobody has to repeat it.
NETWORK_OPTIONS = (
    "labels",
    "anchor_scales",
    "scale_x_y",
    "image_mean",
    "image_std",
    "backbone_input_shape",
    "backbone_shape",
    "backbone_layers",
    "backbone_activation",
    "neck_activation",
    "lateral_kernel",
    "downsample_padding",
    "batch_norm_momentum",
    "batch_norm_epsilon",
    "tile_size",
    "testing_shape",
    "test_img_shape",
    "letterbox",
    "letterbox_enlarge",
    "letterbox_style",
    "padding_grey",
)


def with_checkpoint_options(config: Config, path: str | Path, state: dict | None) -> Config:
    """The options, where they are defaults, as the run had them that wrote a checkpoint of ours.

    Raises:
        UserError: `labels` was set, and has one of the checkpoint's classes at another place.
    """
    carried = (state or {}).get("options", {})
    check_class_order(config, carried.get("labels", ()), path)
    if any(config.origins[key] != "default" for key in ("testing_shape", "test_img_shape")):
        carried = {
            key: value for key, value in carried.items() if key not in ("testing_shape", "test_img_shape")
        }
    chosen = {key for key in NETWORK_OPTIONS if config.origins[key] == "default"}
    return overlay(config, {key: value for key, value in carried.items() if key in chosen}, str(path))


def build_network(config: Config) -> YoloV4:
    """The network that the options describe, with MindSpore's own initial weights."""
    network = YoloV4(
        config.num_classes,
        backbone_input_shape=config.backbone_input_shape,
        backbone_shape=config.backbone_shape,
        backbone_layers=config.backbone_layers,
        backbone_activation=config.backbone_activation,
        neck_activation=config.neck_activation,
        lateral_kernel=config.lateral_kernel,
        downsample_padding=config.downsample_padding,
        drop_block=config.drop_block,
        drop_block_size=config.drop_block_size,
    )
    configure_batch_norm(network, config.batch_norm_momentum, config.batch_norm_epsilon)
    return network


class _Predict(nn.Cell):
    """uint8 pictures to decoded maps."""

    def __init__(self, normalize: nn.Cell, detector: nn.Cell):
        super().__init__(auto_prefix=False)
        self.normalize = normalize
        self.detector = detector

    def construct(self, images):
        return self.detector(self.normalize(images))


class NetworkBackend:
    """Decoded boxes from the network in memory; a `src.detect.backends.Backend`."""

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


def load_trained(config: Config, path: str) -> tuple[YoloV4, Config]:
    """The network of a checkpoint, and the options as it completes them.

    Raises:
        UserError: no readable checkpoint, or weights that do not fit the options.
    """
    values, state = read_checkpoint(path)
    config = with_checkpoint_options(config, path, state)
    network = build_network(config)
    get_logger().info("load %s", load_network(network, path, values=values))
    return network, config
