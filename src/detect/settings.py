"""What a client must know of an exported network: class names, anchors, input and outputs.

The settings travel in an ONNX file's metadata and, for every format, in a YAML beside the file
(`yolov4.mindir.yaml`); a published MINDIR that has none is described by the options instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

import yaml

from ..base.atomic import atomic_write
from ..base.errors import UserError, shown
from ..base.heads import STRIDES_OF, Heads
from ..base.text_file import read_text
from ..base.yaml_text import LONGEST_BYTES, load_yaml
from ..config import Config, overlay

RAW, DECODED, DETECTIONS = "raw", "decoded", "detections"
UINT8_NHWC = "uint8_nhwc"
_LARGEST_INPUT = 1 << 30  # bytes of a batch of images


def _setting(read: Callable, option: str = "", default=MISSING, is_new: bool = False):
    """A field of `ModelSettings`: what a writer and a reader have to know of it.

    Args:
        read: makes it of a value of the YAML.
        option: the option that holds it.
        default: where it is not given.
        is_new: files of earlier exports lack it, and mean the default.
    """
    return field(default=default, metadata={"read": read, "option": option, "is_new": is_new})


def _each(kind: type) -> Callable:
    return lambda values: tuple(map(kind, values))


def _one_of(*allowed: str) -> Callable:
    def read(value) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return read


def _frozen(value):
    """A value of an option as the settings have it: tuples for lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _thawed(value):
    return list(map(_thawed, value)) if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a network, each described once: its type, the option that holds it, and how it is read.

    Attributes:
        class_names: in the order of the outputs.
        anchors: [width, height] in input pixels, three a head from the finest stride on.
        scale_x_y: grid sensitivity of each head, likewise.
        input_hw: (height, width) of the input in pixels.
        batch_size: images a call; 0: any.
        image_mean, image_std: of RGB in 0..1, that a client normalises by where `input_type` is float32.
        input_type: float32, normalised, or uint8, pixels as they are, (N, 3, H, W) RGB both; or uint8_nhwc,
            pixels as they are, (N, H, W, 3) RGB.
        outputs: `raw` maps (N, 3 (5 + C), H, W), `decoded` maps (N, H, W, 3, 5 + C) with boxes x y w h as
            shares of the input, a map a head, the coarsest stride first; or `detections` (n, 6) x1 y1 x2 y2 in input
            pixels, score, class; where a second output counts them, rows past the count are zero.
        letterbox: images keep their aspect ratio, with grey borders, instead of being stretched.
        letterbox_enlarge: under `letterbox`, images smaller than the input are enlarged to fill it.
        letterbox_style: exact or mindyolo (`src.detect.letterbox`).
        padding_grey: grey level of the borders.
        tile_size: side in pixels of the tiles that scenes are cut into.
        network: name of the network, which tells its strides (`src.base.heads`).
    """

    class_names: tuple[str, ...] = _setting(_each(str), "labels")
    anchors: tuple[tuple[int, int], ...] = _setting(
        lambda rows: tuple((float(w), float(h)) for w, h in rows), "anchor_scales"
    )
    scale_x_y: tuple[float, ...] = _setting(_each(float), "scale_x_y")
    input_hw: tuple[int, int] = _setting(_each(int))
    batch_size: int = _setting(int)
    image_mean: tuple[float, ...] = _setting(_each(float), "image_mean")
    image_std: tuple[float, ...] = _setting(_each(float), "image_std")
    input_type: str = _setting(_one_of("float32", "uint8", UINT8_NHWC), default="float32")
    outputs: str = _setting(_one_of(RAW, DECODED, DETECTIONS), default=DECODED)
    letterbox: bool = _setting(bool, "letterbox", default=False)
    letterbox_enlarge: bool = _setting(bool, "letterbox_enlarge", default=True)
    letterbox_style: str = _setting(
        _one_of("exact", "mindyolo"), "letterbox_style", default="exact", is_new=True
    )
    padding_grey: int = _setting(int, "padding_grey", default=128, is_new=True)
    tile_size: int = _setting(int, "tile_size", default=0)
    network: str = _setting(_one_of(*STRIDES_OF), "network", default="yolov4", is_new=True)

    @classmethod
    def from_config(cls, config: Config) -> "ModelSettings":
        """Settings of the network that the options describe, at the input of evaluation."""
        values = {name: _frozen(config[option]) for name, option in OPTION_OF.items()}
        return cls(**values, input_hw=config.eval_input_hw, batch_size=0)

    @property
    def heads(self) -> Heads:
        """The network's heads."""
        return Heads.of(self.network, self.anchors, self.scale_x_y)

    def to_yaml(self) -> str:
        """As YAML text."""
        document = {key: _thawed(value) for key, value in asdict(self).items()}
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_yaml(cls, text: str, where: str | Path) -> "ModelSettings":
        """Read back what `to_yaml` wrote; `where` names the file in errors.

        Raises:
            UserError: no YAML, or a key is missing, unknown or of the wrong kind.
        """
        try:
            document = load_yaml(text)
        except ValueError as error:
            raise UserError(
                f"{where}: settings of the model are no YAML ({error}); export it again"
            ) from error
        known = {field.name for field in fields(cls)}
        if isinstance(document, Mapping):  # of an export that knew no other way
            new = {entry.name: entry.default for entry in fields(cls) if entry.metadata["is_new"]}
            document = {**new, **document}
        if not isinstance(document, Mapping) or set(document) != known:
            wrong = (
                shown(sorted(map(str, known ^ set(document))), 300)
                if isinstance(document, Mapping)
                else "no keys"
            )
            raise UserError(
                f"{where}: settings of the model lack or have too many keys: {wrong}; export it again"
            )
        try:
            return cls(**{entry.name: entry.metadata["read"](document[entry.name]) for entry in fields(cls)})
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{where}: settings of the model: {shown(error, 200)}; export it again"
            ) from error

    def check_input(self, shape, where: str | Path) -> None:
        """Compare with the shape of the file's own input, whose entries are numbers or names.

        Raises:
            UserError: another batch size or input size than the file takes.
        """
        expected = (self.batch_size or None, 3, *self.input_hw)
        if self.input_type == UINT8_NHWC:
            expected = (expected[0], *self.input_hw, 3)
        if len(shape) != 4 or any(
            isinstance(own, int) and said is not None and own != said for own, said in zip(shape, expected)
        ):
            raise UserError(
                f"{where}: settings of the model say an input of {shown(expected)}, the file's is "
                f"{shown(tuple(shape))}; export it again"
            )

    def laid_over(self, config: Config) -> Config:
        """The options with what the model fixes; a client need not repeat them.

        Raises:
            UserError: `labels` was set, to other classes than the model's; `multi_label`, where the model itself
                chooses the best class of a box; or settings that make no network.
        """
        if config.origins["labels"] != "default" and tuple(config.labels) != self.class_names:
            raise UserError(
                f"labels: {len(config.labels)} classes are set ({config.origins['labels']}), the model has "
                f"{len(self.class_names)} others or in another order; leave labels out, the model knows its own"
            )
        for key in ("testing_shape", "test_img_shape"):
            if config.origins[key] == "command line" and config.eval_input_hw != self.input_hw:
                asked, own = (f"{height}x{width}" for height, width in (config.eval_input_hw, self.input_hw))
                raise UserError(
                    f"{key} asks for {asked}, and the model takes {own} alone; leave it out, or export it at that size"
                )
        if self.outputs == DETECTIONS and config.multi_label:
            raise UserError("multi_label: the model gives each box its best class; set it to False")
        height, width = self.input_hw
        if max(self.batch_size, 1) * height * width * 3 > _LARGEST_INPUT:
            raise UserError(
                f"the model's settings: an input of {self.batch_size}x{height}x{width}x3 bytes, more than "
                f"{_LARGEST_INPUT}; export it again"
            )
        fixed = {option: _thawed(getattr(self, name)) for name, option in OPTION_OF.items()}
        fixed.update(test_img_shape=list(self.input_hw), testing_shape="")
        if config.tile_size:
            del fixed["tile_size"]
        if self.outputs == DETECTIONS:
            # Suppressed inside the file; a threshold that was set suppresses again.
            fixed.update(
                {key: 1.0 for key in ("nms_thresh", "test_nms_thresh") if config.origins[key] == "default"}
            )
        if self.batch_size:  # or batches would be filled up with repeats
            fixed.update(batch_size=self.batch_size, eval_batch_size=self.batch_size)
        return overlay(config, fixed, "the model's settings")


OPTION_OF = {
    entry.name: entry.metadata["option"] for entry in fields(ModelSettings) if entry.metadata["option"]
}


def settings_file(model: Path) -> Path:
    """The YAML beside a model's file."""
    return model.with_name(f"{model.name}.yaml")


def write_settings(model: Path, settings: ModelSettings) -> None:
    """Write the YAML beside a model's file (UserError where it cannot be written)."""
    with atomic_write(settings_file(model)) as handle:
        handle.write(settings.to_yaml())


def read_settings(model: Path) -> ModelSettings | None:
    """The settings beside a model's file; None where there are none.

    Raises:
        UserError: a file that is not of this form.
    """
    path = settings_file(model)
    if not path.is_file():
        return None
    try:
        return ModelSettings.from_yaml(read_text(path, LONGEST_BYTES), path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
