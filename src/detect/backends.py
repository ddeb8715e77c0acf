"""One interface for a trained network in any form, chosen by the file's ending.

`open_model` gives a backend whose `detect` turns uint8 images into detections, whatever runs it, and the options with
what the file itself knows (classes, anchors, input size, normalisation) laid over them. MindSpore is imported only
where it runs the network: `.onnx`, `.om`, and `.mindir` under MindSpore Lite, do without.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..base.errors import UserError, first_line
from ..config import Config
from ..layers.decoding import decode_maps
from ..layers.normalisation import normalised, pixel_constants
from ..remote.download import ENDINGS, ending_of
from ..runtime.device import Runtime, is_launched, setup_runtime
from ..weights.by_name import is_darknet, unknown_name, weights_file
from ..weights.model_file import check_file
from .predictions import FinalBoxes, MapBackend, Prediction
from .runtimes import Run, open_mindir, open_om, open_onnx, uses_lite
from .settings import DETECTIONS, UINT8_NHWC, ModelSettings, read_settings


class Backend(Protocol):
    """A network that can be run."""

    settings: ModelSettings

    def detect(self, images: np.ndarray) -> Prediction:
        """Run the network on (N, 3, H, W) uint8 RGB; the answer gives the detections of each image."""


def open_model(config: Config) -> tuple[Backend, Config]:
    """The backend of `pretrained` (a path, an address or a name), and the options as it completes them.

    Raises:
        UserError: no such file or no download, another ending, a damaged file, one whose classes are not
            those of `labels`, or a missing package.
    """
    if ending_of(config.pretrained) not in ENDINGS and not is_darknet(config.pretrained):
        raise UserError(
            f"{config.pretrained}: a model's file ends in {', '.join(ENDINGS)} or .weights"
            f"{unknown_name(config.pretrained)}"
        )
    path = weights_file(config.pretrained, "pretrained", config.download_path)
    ending = path.suffix.lower()
    config = config.replace(pretrained=str(path))
    if not path.is_file():
        raise UserError(f"{path}: no such model file")
    if ending in (".onnx", ".mindir"):
        check_file(path)
    if ending == ".ckpt":
        from .network_backend import NetworkBackend, load_trained

        network, config = load_trained(config, config.pretrained)
        return NetworkBackend(network, config), config
    if ending == ".onnx":
        run, text, shape = open_onnx(path, config)
        settings = ModelSettings.from_yaml(text, path) if text else read_settings(path)
        if settings is not None:
            settings.check_input(shape, path)
    else:
        settings = read_settings(path)
        run = open_om(path, config) if ending == ".om" else open_mindir(path, config)
    if settings is None:
        settings = replace(ModelSettings.from_config(config), batch_size=config.batch_size)
    return ExportedModel(path, run, settings), settings.laid_over(config)


def runs_without_mindspore(config: Config) -> bool:
    """Whether `pretrained` is a file that another runtime than MindSpore runs."""
    ending = ending_of(config.pretrained)
    return ending in (".onnx", ".om") or (ending == ".mindir" and uses_lite(config))


class ExportedModel(MapBackend):
    """A file of a fixed batch size, run on any number of images.

    Args:
        path: the file, for errors.
        run: its input of B images to its outputs.
        settings: what the file takes and gives.
    """

    def __init__(self, path: Path, run: Run, settings: ModelSettings):
        self.path, self.run, self.settings = path, run, settings
        self._normalisation = pixel_constants(settings.image_mean, settings.image_std)

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """See `MapBackend`; not of a file that gives final boxes."""
        parts = list(self._run_all(images, self._maps))
        return parts[0] if len(parts) == 1 else [np.concatenate(level) for level in zip(*parts)]

    def detect(self, images: np.ndarray) -> Prediction:
        """See `Backend`."""
        if self.settings.outputs != DETECTIONS:
            return super().detect(images)
        return FinalBoxes(
            [table for (tables,) in self._run_all(images, self._final_boxes) for table in tables]
        )

    def _run_all(self, images: np.ndarray, read: Callable) -> Iterator[list[np.ndarray]]:
        """What `read` makes of the outputs for each of the file's batches, without the rows that fill the last one."""
        size = self.settings.batch_size or len(images)
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            valid = len(batch)
            if valid < size:  # the file's batch is fixed: fill it by repeats
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - valid, axis=0)])
            yield [output[:valid] for output in read(self._outputs(batch))]

    def _outputs(self, batch: np.ndarray) -> list[np.ndarray]:
        if self.settings.input_type == "float32":
            batch = normalised(batch.astype(np.float32), *self._normalisation)
        elif self.settings.input_type == UINT8_NHWC:
            batch = np.ascontiguousarray(batch.transpose(0, 2, 3, 1))
        try:
            return self.run(batch)
        except Exception as error:  # each runtime has its own kinds
            shape = "x".join(map(str, batch.shape))
            raise UserError(
                f"{self.path}: does not run on {batch.dtype} input {shape} ({first_line(error)}); give the "
                "--testing_shape and --batch_size that it was exported with"
            ) from error

    @staticmethod
    def _final_boxes(outputs: list[np.ndarray]) -> list[np.ndarray]:
        """The one image's boxes (1, n, 6)."""
        found = outputs[0]
        if len(outputs) == 2:  # of a fixed length; the second output counts the true rows
            found = found[: int(outputs[1].reshape(-1)[0])]
        return [found[None]]

    def _maps(self, outputs: list[np.ndarray]) -> list[np.ndarray]:
        """Decoded maps of a batch."""
        heads = self.settings.heads
        if len(outputs) != len(heads.strides):
            raise UserError(
                f"{self.path}: {len(outputs)} outputs; an export of {self.settings.network} has "
                f"{len(heads.strides)}: set network"
            )
        decoded = outputs[0].ndim == 5
        width = outputs[0].shape[-1] if decoded else outputs[0].shape[1] // 3
        classes = len(self.settings.class_names)
        if width != 5 + classes:
            raise UserError(
                f"{self.path}: its outputs are of {width - 5} classes, labels names {classes}; give --labels, or the "
                "--config_path that it was trained with"
            )
        return outputs if decoded else decode_maps(outputs, heads)


def setup_inference(config: Config) -> Runtime:
    """As `setup_runtime`, but without MindSpore where another runtime runs the model of `pretrained`."""
    if not is_launched() and runs_without_mindspore(config):
        return Runtime()
    return setup_runtime(config)
