"""The formats that the fuzzer feeds: good files to start from, how each is read, and what must hold of it."""

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config import load_config

NAMES = ("ship", "plane")
Reader = Callable[[Path], None]
_TINY = [
    "--device_target=CPU", "--is_distributed=0", "--labels=ship,plane", "--backbone_input_shape=4,8,8,16,16",
    "--backbone_shape=8,8,16,16,32", "--backbone_layers=1,1,1,1,1", "--testing_shape=64", "--eval_batch_size=1",
]  # fmt: skip


class NotInstalledError(Exception):
    """A package without which a format is not read at all."""


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        suffix: ending of the file.
        seeds: folder to write in -> good files.
        reader: folder to read in -> what reads a file, raises UserError, and checks what was read.
        weight: its share of the inputs.
        mutate: its own way to make variants, instead of the usual one.
    """

    suffix: str
    seeds: Callable[[Path], list[bytes]]
    reader: Callable[[Path], Reader]
    weight: float = 1.0
    mutate: Callable | None = None


# ---------------------------------------------------------------- annotations


def _coco_seeds(folder: Path) -> list[bytes]:
    images = [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in (1, 2)]
    boxes = [[1, 2, 10, 8], [0.5, 0.25, 59.5, 39], [50, 30, 40, 40]]
    annotations = [
        {"id": n, "image_id": 1 + n % 2, "category_id": 1 + n % 2, "bbox": box, "area": 9, "iscrowd": n // 3}
        for n, box in enumerate(boxes, start=1)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES, start=1)]
    plain = {"images": images, "annotations": annotations, "categories": categories}
    tiles = [
        {**image, "file_name": f"P1__x{n}__y0.png", "scene": "P1", "offset": [n, 0], "scene_size": [90, 40]}
        for n, image in enumerate(images)
    ]
    return [json.dumps(plain).encode(), json.dumps({**plain, "images": tiles}).encode()]


def _read_coco(folder: Path) -> Reader:
    from src.evaluation.dota_submission import find_places
    from src.yolo_dataset import load_detection_set

    for name in ("1.png", "2.png", "P1__x0__y0.png", "P1__x1__y0.png"):
        (folder / name).touch()

    def read(path: Path) -> None:
        dataset = load_detection_set(folder, path, NAMES)
        for record in dataset.records:
            assert record.path.parent.resolve().is_relative_to(folder.resolve()), record.path
            for boxes in (record.boxes, record.ignored):
                _check_boxes(boxes, record.width, record.height)
            assert set(record.classes.tolist()) <= {0, 1}
        dataset.describe()
        places, sizes = find_places(dataset)
        for place in places.values():
            assert 0 <= place.x < sizes[place.scene][0] and 0 <= place.y < sizes[place.scene][1], place

    return read


def _read_checked(folder: Path) -> Reader:
    from src.datasets.check import check_boxes, check_set
    from src.datasets.check_images import check_images
    from src.datasets.findings import Findings, findings_text

    anchors = np.array(load_config([]).anchor_scales)
    for name in ("1.png", "2.png"):
        (folder / name).touch()

    def read(path: Path) -> None:
        findings = Findings()
        checked = check_set("train", folder, path, NAMES, findings)
        check_images([checked], findings, decode=False, workers=1)
        sides = {"input_hw": (608, 608), "letterbox": False, "max_box": 600, "tiny": 2.0}
        statistics = {"train": check_boxes(checked, findings, anchors=anchors, **sides)}
        assert findings_text(findings, statistics)
        assert json.dumps({"problems": findings.as_list(), "sets": statistics}, allow_nan=False)

    return read


def _check_boxes(boxes: np.ndarray, width: float, height: float) -> None:
    assert np.isfinite(boxes).all(), boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all(), boxes
    assert (boxes >= 0).all() and (boxes <= np.float32([width, height] * 2)).all(), boxes


def _dota_seeds(folder: Path) -> list[bytes]:
    lines = [
        f"{n} {n} {n + 20} {n} {n + 20} {n + 9}.5 {n} {n + 9} {name} {n % 2}" for n, name in enumerate(NAMES)
    ]
    head = "imagesource:GoogleEarth\ngsd:0.146343\n"
    return [(head + "\n".join(lines) + "\n").encode(), b"1 2 30 40 ship 0\n5 6 7 8 plane\n"]


def _read_dota(folder: Path) -> Reader:
    from src.datasets.dota_labels import object_boxes, read_labels
    from src.datasets.dota_split import SplitOptions, _annotation, tile_objects

    options = SplitOptions(NAMES)

    def read(path: Path) -> None:
        objects = read_labels(path, NAMES)
        for entry, box, is_target in tile_objects(objects, object_boxes(objects), 10, 5, 600, 600, 0.7):
            assert np.isfinite(box).all() and (box[2:] > box[:2]).all()
            assert isinstance(bool(is_target), bool)
            assert all(map(np.isfinite, _annotation(entry, box, is_target, options)["bbox"]))

    return read


_VOC = """<annotation><folder>VOC</folder><filename>a.png</filename><size><width>60</width><height>40</height>
<depth>3</depth></size><object><name>ship</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin>
<xmax>10</xmax><ymax>12.5</ymax></bndbox></object></annotation>"""


def _read_voc(folder: Path) -> Reader:
    from src.datasets.formats.voc import read_voc_xml

    def read(path: Path) -> None:
        _, size, objects = read_voc_xml(path)
        assert all(type(side) is int for side in size)
        _check_labelled(objects)

    return read


def _check_labelled(objects) -> None:
    from src.datasets.formats.coco_writer import _bbox
    from src.datasets.formats.labelled import LabelledImage

    for entry in objects:
        box, fault = _bbox(entry, LabelledImage(Path("a.png"), 60, 40, objects))
        assert fault or (np.isfinite(box).all() and min(box[2:]) > 0 and min(box[:2]) >= 0), box
        assert entry.name and len(entry.name.splitlines()) == 1, entry.name


def _read_yolo(folder: Path) -> Reader:
    from src.datasets.formats.yolo_txt import read_yolo_labels

    def read(path: Path) -> None:
        _check_labelled(read_yolo_labels(path, NAMES, 60, 40))

    return read


def _read_data_yaml(folder: Path) -> Reader:
    from src.datasets.formats.labelled import ReadOptions
    from src.datasets.formats.yolo_txt import _data_yaml, _from_data_yaml, class_names

    (folder / "images").mkdir(exist_ok=True)

    def read(path: Path) -> None:
        options = ReadOptions(names=path)
        document, found = _data_yaml(folder, options)
        _from_data_yaml(folder, document, found, options)
        names = class_names(folder, ReadOptions(), document, found)
        assert names and all(isinstance(name, str) for name in names)

    return read


# ---------------------------------------------------------------- options and tables


def _read_options(folder: Path) -> Reader:
    def read(path: Path) -> None:
        config = load_config([f"--config_path={path}"])
        assert config.num_classes == len(set(config.labels))
        assert load_config([f"--config_path={path}"]).to_yaml() == config.to_yaml()

    return read


_OPTIONS = b"""# a comment
lr: 0.01
max_epoch: 20
labels: [ship, plane]
anchor_scales: [[12, 16], [19, 36], [40, 28], [36, 75], [76, 55], [72, 146], [142, 110], [192, 243], [459, 401]]
lr_epochs: "10,15"
mosaic: True
training_shape: 416
image_mean: [0.4, 0.4, 0.4]
multi_scale: [[416, 416], [448, 448]]
data_dir: &here "set"
ckpt_path: *here
---
lr: "help"
"""


def _settings_text() -> bytes:
    from src.detect.settings import ModelSettings

    return ModelSettings.from_config(load_config(_TINY)).to_yaml().encode()


def _read_settings(folder: Path) -> Reader:
    from src.detect.settings import ModelSettings

    config = load_config([word for word in _TINY if "labels" not in word])

    def read(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "replace")
        settings = ModelSettings.from_yaml(text, path)
        laid = settings.laid_over(config)
        assert all(map(np.isfinite, (*laid.image_mean, *laid.image_std, *laid.scale_x_y)))
        assert min(settings.input_hw) > 0 and np.asarray(settings.anchors).shape == (9, 2)

    return read


def _rank_seeds(folder: Path) -> list[bytes]:
    from src.runtime.rank_table import Device, RankTable, Server

    servers = tuple(
        Server(f"10.0.0.{n}", tuple(Device(d, f"192.168.{n}.{d + 1}", 2 * n + d) for d in (0, 1)))
        for n in (0, 1)
    )
    return [json.dumps(RankTable(servers).to_json()).encode()]


def _read_rank(folder: Path) -> Reader:
    from src.runtime.rank_table import read_rank_table

    def read(path: Path) -> None:
        table = read_rank_table(path)
        ranks = [device.rank_id for server in table.servers for device in server.devices]
        assert ranks == list(range(table.rank_count)), ranks
        assert json.dumps(table.to_json())

    return read


def _results_seeds(folder: Path) -> list[bytes]:
    from src.report.history import EpochRow, write_history

    nan = float("nan")
    rows = [
        EpochRow(n, 3 * n, 9.5 / n, 1.0, 2.0, 3.0, 0.01, 0.5 if n % 2 else nan, 0.7, 8.1, 60.0)
        for n in (1, 2, 3)
    ]
    write_history(folder / "seed.csv", rows)
    return [(folder / "seed.csv").read_bytes()]


def _read_results(folder: Path) -> Reader:
    from src.report.history import read_history, write_history
    from src.report.html_report import Report
    from src.yolo_dataset import load_detection_set

    ann_file = folder / "set.json"
    ann_file.write_bytes(_coco_seeds(folder)[0])
    for name in ("1.png", "2.png"):
        (folder / name).touch()
    dataset = load_detection_set(folder, ann_file, NAMES)
    report = Report(folder, "Training", [("training", dataset)], 3)

    def read(path: Path) -> None:
        rows = read_history(path)
        write_history(folder / "again.csv", rows)
        assert [row.epoch for row in read_history(folder / "again.csv")] == [row.epoch for row in rows]
        report.write(rows)

    return read


# ---------------------------------------------------------------- images


def _image_seeds(kind: str) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        from PIL import Image

        rng = np.random.default_rng(0)
        grey = Image.fromarray(rng.integers(0, 256, (13, 17), np.uint8))
        colour = Image.fromarray(rng.integers(0, 256, (24, 31, 3), np.uint8))
        images = [colour, grey] if kind == "JPEG" else [colour, grey, colour.quantize(16)]
        found = []
        for image in images:
            buffer = io.BytesIO()
            image.save(buffer, kind)
            found.append(buffer.getvalue())
        return found

    return seeds


def _read_image(folder: Path) -> Reader:
    from src.imaging.image_io import read_rgb, read_size

    def read(path: Path) -> None:
        image = read_rgb(path)
        assert image.dtype == np.uint8 and image.shape[2] == 3, image.shape
        assert image.shape[1::-1] == read_size(path)

    return read


def _geotiff_seeds(folder: Path) -> list[bytes]:
    try:
        import rasterio
        from rasterio.transform import from_origin
    except ImportError:
        raise NotInstalledError("rasterio is not installed") from None
    rng = np.random.default_rng(0)
    found = []
    for number, more in enumerate(
        ({}, {"tiled": True, "blockxsize": 16, "blockysize": 16}, {"compress": "deflate"})
    ):
        path = folder / f"seed{number}.tif"
        options = {"crs": "EPSG:32633", "transform": from_origin(4e5, 5e6, 0.5, 0.5), "nodata": 0, **more}
        with rasterio.open(path, "w", "GTiff", 40, 30, 3, dtype="uint8", **options) as sink:
            sink.write(rng.integers(0, 256, (3, 30, 40), np.uint8))
        found.append(path.read_bytes())
    return found


def _read_geotiff(folder: Path) -> Reader:
    from src.imaging.raster import open_raster

    def read(path: Path) -> None:
        with open_raster(path) as raster:
            width, height = min(raster.width, 64), min(raster.height, 64)
            image = raster.read(0, 0, width, height)
            assert image is None or (image.shape == (height, width, 3) and image.dtype == np.uint8), (
                image.shape
            )
            small = raster.preview(64)
            assert small.dtype == np.uint8 and max(small.shape[:2]) <= 64

    return read


# ---------------------------------------------------------------- archives


def _zip_seeds(folder: Path) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as packed:
            packed.writestr("set/train/1.png", b"picture" * 30)
            packed.writestr("set/annotations/train.json", b'{"images": []}' * 9)
        found.append(buffer.getvalue())
    return found


def _read_zip(folder: Path) -> Reader:
    from src.remote.archive import unpack_once

    place = folder / "unpacked"

    def read(path: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)
        target = place / "target"
        target.mkdir(parents=True)
        unpack_once(path, target)
        assert {item.name.split(".")[0] for item in place.iterdir()} <= {"target", ""}, list(place.iterdir())
        for item in target.rglob("*"):
            assert not item.is_symlink() and item.resolve().is_relative_to(target.resolve()), item

    return read


# ---------------------------------------------------------------- weights and models


def _network():
    from src.yolo import build_network

    return build_network(load_config(_TINY))


def _ckpt_seeds(folder: Path) -> list[bytes]:
    import mindspore as ms

    from src.weights.checkpoint import save_checkpoint

    state = {
        "step": 3,
        "steps_per_epoch": 3,
        "best_map": -1.0,
        "best_epoch": 0,
        "updates": 3,
        "epoch_sums": None,
    }
    network = _network()
    save_checkpoint(network, folder / "seed.ckpt", state)
    ms.save_checkpoint(network, str(folder / "published.ckpt"))  # without a checksum
    small = [{"name": "conv1.weight", "data": ms.Tensor(np.ones((2, 3), np.float32))}]
    ms.save_checkpoint(small, str(folder / "small.ckpt"), append_dict={"train_state": json.dumps(state)})
    return [(folder / f"{name}.ckpt").read_bytes() for name in ("seed", "published", "small")]


def _read_ckpt(folder: Path) -> Reader:
    from src.weights.checkpoint import read_checkpoint
    from src.weights.loading import load_network

    network = _network()

    def read(path: Path) -> None:
        values, state = read_checkpoint(path)
        assert state is None or state.get("step", 0) >= 0
        if "feature_map.conv1.0.weight" in values:
            load_network(network, path)
            for parameter in network.get_parameters():
                assert np.isfinite(parameter.asnumpy()).all(), parameter.name

    return read


def _weights_seeds(folder: Path) -> list[bytes]:
    from src.weights import darknet
    from src.weights.layer_order import darknet_layers

    config = load_config(
        [*_TINY, "--image_mean=0,0,0", "--image_std=1,1,1", "--downsample_padding=symmetric"]
    )
    from src.yolo import build_network

    network = build_network(config)
    layers = darknet_layers(network)
    values = {name: value.asnumpy() for name, value in network.parameters_dict().items()}
    darknet.write_weights(
        folder / "seed.weights", layers, values, darknet.own_layout(layers, [0] * 3, [1] * 3)
    )
    whole = (folder / "seed.weights").read_bytes()
    return [whole, whole[: len(whole) // 2]][:1]


def _read_weights(folder: Path) -> Reader:
    from src.weights import darknet
    from src.weights.layer_order import darknet_layers

    layers = darknet_layers(_network())

    def read(path: Path) -> None:
        for value in darknet.read_weights(path, layers, [0.0] * 3, [1.0] * 3).values.values():
            assert np.isfinite(value).all()

    return read


def _pth_seeds(folder: Path) -> list[bytes]:
    try:
        import torch
    except ImportError:
        raise NotInstalledError("PyTorch is not installed") from None
    state = {
        "conv.weight": torch.ones(2, 3, 1, 1),
        "bn.weight": torch.ones(2),
        "bn.num_batches_tracked": torch.tensor(1),
    }
    torch.save({"epoch": 1, "state_dict": state}, folder / "a.pth")
    torch.save(state, folder / "b.pth", _use_new_zipfile_serialization=False)
    return [(folder / name).read_bytes() for name in ("a.pth", "b.pth")]


def _read_pth(folder: Path) -> Reader:
    from src.weights.torch_state import read_state

    def read(path: Path) -> None:
        for value in read_state(path).values():
            assert value.dtype == np.float32

    return read


def _exported(folder: Path, kind: str) -> list[bytes]:
    from src.export.export import export_model
    from src.weights.checkpoint import save_checkpoint

    save_checkpoint(_network(), folder / "net.ckpt")
    words = [f"--ckpt_file={folder / 'net.ckpt'}", f"--file_name={folder / 'net'}", f"--file_format={kind}"]
    data = export_model(load_config([*_TINY, *words])).read_bytes()
    (folder / f"input.{kind.lower()}.yaml").write_bytes((folder / f"net.{kind.lower()}.yaml").read_bytes())
    return [data]


def _onnx_seeds(folder: Path) -> list[bytes]:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        raise NotInstalledError("onnx or onnxruntime is not installed") from None
    return _exported(folder, "ONNX")


def _read_model(predicts: bool) -> Callable[[Path], Reader]:
    def reader(folder: Path) -> Reader:
        from src.detect.backends import open_model

        config = load_config([word for word in _TINY if "labels" not in word])
        image = np.zeros((1, 3, 64, 64), np.uint8)

        def read(path: Path) -> None:
            backend, laid = open_model(config.replace(pretrained=str(path)))
            if predicts:
                maps = backend.predict(image)
                assert len(maps) == 3 and maps[0].shape[-1] == 5 + laid.num_classes

        return read

    return reader


def _header_mutated(seed: bytes, others: list[bytes], rng) -> bytes:
    """As usual, but half of the changes are in the first bytes of a file that is nearly all numbers."""
    from tests.fuzz.mutations import mutated

    if rng.random() < 0.5:
        return mutated(seed, others, rng)
    number = struct.pack("<f", rng.choice((float("nan"), float("inf"), 1e38, -1.0)))
    place = rng.randrange(0, max(1, len(seed) - 4)) // 4 * 4
    return seed[:place] + number + seed[place + 4 :]


FORMATS: dict[str, Format] = {
    "coco": Format(".json", _coco_seeds, _read_coco, 2),
    "check_dataset": Format(".json", lambda folder: _coco_seeds(folder)[:1], _read_checked),
    "dota": Format(".txt", _dota_seeds, _read_dota),
    "voc": Format(".xml", lambda folder: [_VOC.encode()], _read_voc),
    "yolo": Format(".txt", lambda folder: [b"0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.9 0.1 0.5 0.9\n"], _read_yolo),
    "data_yaml": Format(
        ".yaml", lambda folder: [b"path: .\ntrain: images\nnames: {0: ship, 1: plane}\n"], _read_data_yaml
    ),
    "options": Format(".yaml", lambda folder: [_OPTIONS], _read_options),
    "settings": Format(".yaml", lambda folder: [_settings_text()], _read_settings),
    "rank_table": Format(".json", _rank_seeds, _read_rank),
    "results": Format(".csv", _results_seeds, _read_results),
    "png": Format(".png", _image_seeds("PNG"), _read_image),
    "jpeg": Format(".jpg", _image_seeds("JPEG"), _read_image),
    "bmp": Format(".bmp", _image_seeds("BMP"), _read_image),
    "tiff": Format(".tif", _image_seeds("TIFF"), _read_image),
    "gif": Format(".gif", _image_seeds("GIF"), _read_image, 0.5),
    "geotiff": Format(".tif", _geotiff_seeds, _read_geotiff),
    "zip": Format(".zip", _zip_seeds, _read_zip),
    "ckpt": Format(".ckpt", _ckpt_seeds, _read_ckpt),
    "weights": Format(".weights", _weights_seeds, _read_weights, 0.5, _header_mutated),
    "pth": Format(".pth", _pth_seeds, _read_pth),
    "onnx": Format(".onnx", _onnx_seeds, _read_model(True)),
    "mindir": Format(".mindir", lambda folder: _exported(folder, "MINDIR"), _read_model(False)),
}
