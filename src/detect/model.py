"""A trained network for a program of one's own: `load` gives a `Model`, its `detect` the boxes of an image."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..config import Config, load_config
from ..runtime.device import prepare_environment
from .backends import Backend, open_model, setup_inference
from .detections import detect_set
from .images import split_by_size
from .inference import image_loader, inference_options, largest_side, scene_in, scene_options


@dataclass(frozen=True)
class Boxes:
    """What was found in an image, best first.

    Attributes:
        boxes: (n, 4) float32, x1 y1 x2 y2 in the image's pixels.
        scores: (n,) float32, objectness times class probability.
        classes: (n,) int32, numbers of the classes.
        names: the class name of each box.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)


class Model:
    """A network that is ready to detect.

    Args:
        backend: what runs it.
        config: the options, with what the model's file knows laid over them.
    """

    def __init__(self, backend: Backend, config: Config):
        self.backend, self.config = backend, config

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by their numbers."""
        return tuple(self.config.labels)

    def detect(self, image: str | Path) -> Boxes:
        """Detect in an image's file, or tile by tile in one that is larger than the input, or a GeoTIFF.

        Raises:
            UserError: the file cannot be read.
        """
        path = Path(image)
        small, _, failures = split_by_size([path], largest_side(self.config))
        if small:
            loader = image_loader(small, self.config.replace(batch_size=1))
            batches = list(detect_set(self.backend.detect, loader, inference_options(self.config)))
            failures = loader.failures
        if failures:
            raise UserError(failures[0].reason)
        if small:
            found = batches[0][1][0]
        else:
            found = scene_in(self.backend, path, self.config, scene_options(self.config)).found
        return Boxes(
            found.boxes,
            found.scores,
            found.classes,
            tuple(self.class_names[number] for number in found.classes),
        )


def load(model: str | Path, **options: Any) -> Model:
    """Open a .ckpt, .mindir, .onnx or .om, or an address of one.

    Args:
        model: the file.
        options: those of `yolov4 predict`, such as `device_target="CPU"` or `infer_threshold=0.5`.

    Raises:
        UserError: a file that cannot be used, an option that is not known or acts elsewhere, or a missing package.
    """
    prepare_environment()  # before anything imports MindSpore
    given = {**options, "model": str(model)}
    words = [f"--{key}={_as_word(value)}" for key, value in given.items()]
    config = load_config(words, entry_point="inference").replace(is_distributed=False)
    setup_inference(config)
    return Model(*open_model(config))


def _as_word(value: Any) -> str:
    """A value as the command line takes it; lists as YAML."""
    return json.dumps(value) if isinstance(value, bool | list | tuple) else str(value)
