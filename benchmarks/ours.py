"""The project's side of the benchmark: cases of a worker process (`benchmarks/peers/serve.py`)."""

import json
import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path

from src.runtime.device import Runtime, prepare_environment

prepare_environment()  # before anything imports MindSpore

import cv2  # noqa: E402
import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Tensor, nn  # noqa: E402

from benchmarks.maps import decoded_maps  # noqa: E402
from benchmarks.peers.serve import Case, serve  # noqa: E402
from src.config import Config, load_config  # noqa: E402
from src.data_loader import planes_first  # noqa: E402
from src.datasets.dota_split import SplitOptions, split_set  # noqa: E402
from src.datasets.sample.scenes import draw_scene  # noqa: E402
from src.detect.merge import TileDetections, merge_scene  # noqa: E402
from src.detect.network_backend import NetworkBackend  # noqa: E402
from src.detect.postprocess import (  # noqa: E402
    PostprocessOptions,
    postprocess,
    postprocess_options,
)
from src.detect.predictions import MapBackend  # noqa: E402
from src.detect.scenes import SceneOptions, detect_scene  # noqa: E402
from src.evaluation.session import evaluate_set, load_validation_set  # noqa: E402
from src.export.export import export_model  # noqa: E402
from src.imaging.image_io import write_image  # noqa: E402
from src.imaging.tiling import tile_starts  # noqa: E402
from src.initializer import initialize, set_head_prior  # noqa: E402
from src.runtime.device import setup_runtime  # noqa: E402
from src.train.compile_cache import CompileCache  # noqa: E402
from src.train.train_setup import create_augment, create_forward, create_optimizer, create_train_step  # noqa: E402
from src.weights.checkpoint import save_checkpoint  # noqa: E402
from src.yolo import build_network  # noqa: E402

SCORE_THRESHOLD = 0.001
FULL_SHAPE, FULL_LAYERS = (64, 128, 256, 512, 1024), (1, 2, 8, 8, 4)
HEAD_PRIOR = 0.03  # every cell of an untrained network then passes the threshold of evaluations: the most work there is


def options(classes: int, shape, layers, *words: str) -> Config:
    """The options of a network on the CPU, of DOTA's classes where `classes` is 0; the rest as it comes."""
    labels = [f"--labels={','.join(f'class{number}' for number in range(classes))}"] if classes else []
    words = [
        "--device_target=CPU", "--is_distributed=0", f"--backbone_shape={list(shape)}",
        f"--backbone_input_shape={[shape[0] // 2, *shape[:-1]]}", f"--backbone_layers={list(layers)}", *labels,
        *words,
    ]  # fmt: skip
    config = load_config(words)
    setup_runtime(config)
    logging.disable(logging.INFO)
    return config


def described(network: nn.Cell) -> dict:
    """What the driver reports of a network."""
    return {"parameters": sum(parameter.size for parameter in network.trainable_params())}


def forward_case(classes: int, size: int, batch: int, shape, layers) -> Case:
    """The network in memory, in evaluation mode, BatchNorm not folded: float32 images to raw maps."""
    config = options(classes, shape, layers)
    network = build_network(config).set_train(False)
    images = Tensor(np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32))

    def run() -> None:
        for level in network(images):
            level.asnumpy()

    return {"forward": run}, described(network)


def export_case(classes: int, size: int, shape, layers, folder: str) -> Case:
    """Write a checkpoint, and of it a MINDIR and an ONNX file of raw maps with BatchNorm folded."""
    config = options(classes, shape, layers, f"--testing_shape={size}", "--keep_detect=0")
    network = build_network(config)
    initialize(network, 1)
    checkpoint = Path(folder) / "network.ckpt"
    save_checkpoint(list(network.get_parameters()), checkpoint, None)
    config = config.replace(ckpt_file=str(checkpoint))

    def write(kind: str) -> None:
        export_model(config.replace(file_format=kind, file_name=str(Path(folder) / "network")))

    return {"MINDIR": lambda: write("MINDIR"), "ONNX": lambda: write("ONNX")}, {}


def exported_case(path: str, size: int, batch: int) -> Case:
    """A MINDIR by MindSpore: float32 images to raw maps."""
    ms.set_context(mode=ms.GRAPH_MODE)
    cell = nn.GraphCell(ms.load(path))
    images = Tensor(np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32))

    def run() -> None:
        for level in cell(images):
            level.asnumpy()

    return {"forward": run}, {}


def train_case(
    classes: int, sizes: list[int], data: str, shape, layers, crowd="", cache="", accumulate=1
) -> Case:
    """A whole step as train.py runs it, at each of the sizes; the rate is zero, so the network stays.

    With `crowd`, a file of images with more boxes: the loss with its gradients alone for these boxes, on raw maps
    such as the first size gives. `cache` is the folder of the compile cache; then "first" is the first step of the
    first size; `accumulate` the number of parts in which the step is made.
    """
    config = options(classes, shape, layers, f"--accumulate={accumulate}")
    network = build_network(config)
    initialize(network, config.seed)
    optimizer = create_optimizer(config, network, np.zeros(100_000, np.float32))
    forward = create_forward(config, network)
    step = create_train_step(config, forward, optimizer, None, None, 1)
    arrays = np.load(data)
    boxes = padded_boxes(arrays["boxes"], config.max_box)
    rng = np.random.default_rng(0)
    runs = {}
    for size in sizes:
        images = arrays["images"]
        if images.shape[2] != size:
            images = rng.integers(0, 256, (len(images), 3, size, size), np.uint8)

        runs[f"step {size}"] = partial(finished, step, Tensor(images), boxes)
    if cache:
        stored = CompileCache(Path(cache), config, [sizes, boxes.shape])

        def first() -> float:
            with stored.use():
                return runs[f"step {sizes[0]}"]()

        runs["first"] = first
    if crowd:
        boxes = padded_boxes(np.load(crowd)["boxes"], config.max_box)
        runs["loss"] = loss_run(forward.loss, random_maps(rng, len(boxes), sizes[0], classes), boxes)
    return runs, described(network)


def padded_boxes(boxes: np.ndarray, count: int) -> Tensor:
    """(N, n, 5) boxes filled up to (N, count, 5) with zeros, as the data path does."""
    padded = np.zeros((len(boxes), count, 5), np.float32)
    padded[:, : boxes.shape[1]] = boxes
    return Tensor(padded)


def parts_case(classes: int, size: int, data: str, shape, layers, parts: list[str]) -> Case:
    """Forward and backward of the network with those of `parts` that are named: convolutions are always there.

    Without `batchnorm` or `activation` these layers pass their input on. With `loss` it is the training's, without it
    the mean of the raw maps. With `optimizer`, which needs all others, it is the whole step.
    """
    config = options(classes, shape, layers)
    network = build_network(config)
    initialize(network, config.seed)
    network.set_train()
    arrays = np.load(data)
    images, boxes = Tensor(arrays["images"]), padded_boxes(arrays["boxes"], config.max_box)
    for cell in list(network.cells()):
        leave_out(cell, parts)
    forward = create_forward(config, network)
    if "optimizer" in parts:
        optimizer = create_optimizer(config, network, np.zeros(100_000, np.float32))
        step = create_train_step(config, forward, optimizer, None, None, 1)
        return {"run": partial(finished, step, images, boxes)}, described(network)

    def mean_of_maps(images, boxes):
        return sum(level.mean() for level in network(forward.normalize(images)))

    weights, has_loss = tuple(network.trainable_params()), "loss" in parts
    total = forward if has_loss else mean_of_maps
    gradients = ms.jit(ms.value_and_grad(total, None, weights, has_aux=has_loss))

    def run() -> float:
        value, found = gradients(images, boxes)
        value = value[0] if has_loss else value
        found[0].asnumpy()  # of the first layer, the last to be known
        return float(value.asnumpy())

    return {"run": run}, described(network)


def leave_out(cell: nn.Cell, parts: list[str]) -> None:
    """Put `nn.Identity` where a convolution's BatchNorm or activation is not among the parts."""
    if isinstance(cell, nn.SequentialCell) and isinstance(cell[0], nn.Conv2d) and len(cell) == 3:
        for place, name in ((1, "batchnorm"), (2, "activation")):
            if name not in parts:
                cell[place] = nn.Identity()
        return
    for inner in cell.cells():
        leave_out(inner, parts)


def finished(step: nn.Cell, images: Tensor, boxes: Tensor) -> float:
    """The loss of a step, when all of the step is done."""
    total, parts = step(images, boxes)
    parts.asnumpy()
    return float(total.asnumpy())


def random_maps(rng, batch: int, size: int, classes: int) -> list[np.ndarray]:
    """Raw maps of strides 32, 16, 8."""
    shapes = [(batch, 3 * (5 + classes), size // stride, size // stride) for stride in (32, 16, 8)]
    return [rng.normal(0, 1, shape).astype(np.float32) for shape in shapes]


def loss_run(loss: nn.Cell, raw: list[np.ndarray], boxes: Tensor):
    """Loss and its gradients for raw maps: the loss and the sums of the gradients' magnitudes."""
    gradients = ms.jit(ms.value_and_grad(loss, grad_position=(0, 1, 2), has_aux=True))
    maps = [Tensor(level) for level in raw]

    def run() -> list[float]:
        (total, _), grads = gradients(*maps, boxes)
        return [float(total.asnumpy()), *(float(np.abs(grad.asnumpy()).sum()) for grad in grads)]

    return run


def loss_case(classes: int, data: str) -> Case:
    """Loss and gradient on the raw maps of a file, to compare with a peer's."""
    from src.loss import YoloLoss

    ms.set_context(mode=ms.GRAPH_MODE)
    arrays = np.load(data)
    raw = [arrays[f"raw{level}"] for level in range(3)]
    return {"value": loss_run(YoloLoss(classes), raw, Tensor(arrays["boxes"]))}, {}


def augment_case(size: int, data: str, images: int) -> Case:
    """So many times a file's image, one after the other, in one thread, to the uint8 planes of a batch."""
    cv2.setNumThreads(1)
    arrays = np.load(data)
    image, boxes, classes = arrays["image"], arrays["boxes"][:, :4], arrays["boxes"][:, 4].astype(np.int32)
    augment = create_augment(load_config(["--device_target=CPU"]))
    rng = np.random.default_rng(0)
    planes = np.empty((3, size, size), np.uint8)

    def run() -> None:
        for _ in range(images):
            planes_first(augment(rng, image, boxes, classes, (size, size))[0], planes)

    return {"augment": run}, {}


def detect_case(data: str, size: int) -> Case:
    """One image's decoded maps of a file to its detections."""
    arrays = np.load(data)
    post = PostprocessOptions(score_threshold=SCORE_THRESHOLD)
    runs = {}
    for kind in ("trained", "untrained"):
        maps = [arrays[f"{kind}{level}"] for level in range(3)]
        runs[kind] = lambda maps=maps: len(postprocess(maps, (size, size), post))
    return runs, {}


def evaluate_case(classes: int, size: int, shape, layers, tiles: str, batch: int) -> Case:
    """A whole evaluation of a set of tiles, and the network alone on as many images.

    Reading, resizing, suppression, the JSON file and the metrics are in; loading and compiling are not.
    """
    config = options(
        classes, shape, layers, f"--testing_shape={size}", f"--data_dir={tiles}", f"--eval_batch_size={batch}"
    )
    dataset = load_validation_set(config)
    network = build_network(config)
    initialize(network, 1)
    set_head_prior(network, HEAD_PRIOR)
    backend = NetworkBackend(network, config)
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    count = len(dataset.records)

    def everything() -> int:
        with tempfile.TemporaryDirectory() as folder:
            return len(evaluate_set(backend, dataset, config, Path(folder), Runtime()).table)

    def alone() -> None:
        for _ in range(-(-count // batch)):
            backend.predict(images)

    return {"everything": everything, "network": alone}, {"tiles": count}


def scene_case(classes: int, size: int, shape, layers, scene: str, batch: int) -> Case:
    """A whole scene, and the network alone on as many tiles."""
    config = options(classes, shape, layers, f"--testing_shape={size}")
    network = build_network(config)
    initialize(network, 1)
    set_head_prior(network, HEAD_PRIOR)
    backend = NetworkBackend(network, config)
    post = postprocess_options(config)
    settings = SceneOptions(batch_size=batch, preview_side=0)
    names = tuple(config.labels)
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    found = {}

    def everything() -> int:
        result = detect_scene(backend.detect, Path(scene), names, (size, size), settings, post)
        found["batches"] = -(-result.tiles // batch)
        return len(result.found)

    def alone() -> None:
        for _ in range(found["batches"]):
            backend.predict(images)

    return {"everything": everything, "network": alone}, {}


def split_case(scenes: str, suffix: str, tile_size: int) -> Case:
    """Cut a set of scenes, and decode the same scenes and encode the same tiles without anything else."""
    source = Path(scenes)
    settings = SplitOptions(tuple(load_config([]).labels), tile_size=tile_size, suffix=suffix)
    parameters = (cv2.IMWRITE_PNG_COMPRESSION, 1) if suffix == ".png" else (cv2.IMWRITE_JPEG_QUALITY, 95)
    out = Path(tempfile.mkdtemp(prefix="split-", dir=source.parent))
    cv2.setNumThreads(1)

    def everything() -> int:
        shutil.rmtree(out, ignore_errors=True)
        return split_set(source, out, "train", settings).tiles

    everything()  # tells the tiles
    places = [tile.stem.rsplit("__", 2) for tile in sorted((out / "train").iterdir())]
    by_scene: dict[str, list] = {}
    for stem, x, y in places:
        by_scene.setdefault(stem, []).append((int(x[1:]), int(y[1:])))

    def codec() -> int:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        count = 0
        for stem, corners in by_scene.items():
            image = cv2.imread(str(source / "images" / f"{stem}.png"), cv2.IMREAD_COLOR)
            for x, y in corners:
                tile = image[y : y + tile_size, x : x + tile_size]
                cv2.imwrite(str(out / f"{count}{suffix}"), tile, list(parameters))
                count += 1
        return count

    return {"everything": everything, "codec": codec}, {}


class RecordedBackend(MapBackend):
    """Answers with decoded maps that were recorded, one after the other, instead of running a network."""

    def __init__(self, recorded: list[list[np.ndarray]]):
        self.recorded, self.calls = recorded, 0

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """The next of the recorded maps for every image."""
        self.calls += 1
        maps = self.recorded[self.calls % len(self.recorded)]
        return [np.repeat(level[None], len(images), 0) for level in maps]


def recorded_case(tiles: int, size: int) -> Case:
    """A whole evaluation of so many tiles in which recorded maps stand in for the network."""
    folder = tempfile.TemporaryDirectory(prefix="tiles-")
    root = Path(folder.name)
    classes = len(load_config([]).labels)
    rng = np.random.default_rng(0)
    write_many_tiles(root, tiles, classes, rng)
    config = options(0, FULL_SHAPE, FULL_LAYERS, f"--testing_shape={size}", f"--data_dir={root}")
    dataset = load_validation_set(config)
    maps = [decoded_maps(rng, size, classes) for _ in range(8)]
    backend = RecordedBackend([[found[f"trained{level}"] for level in range(3)] for found in maps])

    def everything(root: Path = root, keep=folder) -> int:
        return len(evaluate_set(backend, dataset, config, root, Runtime()).table)

    return {"everything": everything}, {}


def write_many_tiles(root: Path, tiles: int, classes: int, rng: np.random.Generator) -> None:
    """A validation set of so many 600 x 600 JPEG names on ten files, with 30 random objects each."""
    for name in ("annotations", "val"):
        (root / name).mkdir()
    drawn = [draw_scene(number, 600)[0] for number in range(10)]
    images, annotations = [], []
    for number in range(tiles):
        path = root / "val" / f"{number}.jpg"
        if number < len(drawn):
            write_image(path, drawn[number])
        else:
            path.hardlink_to(root / "val" / f"{number % len(drawn)}.jpg")
        images.append({"id": number + 1, "file_name": path.name, "width": 600, "height": 600})
        for x, y, w, h in np.column_stack([rng.uniform(0, 540, (30, 2)), rng.uniform(8, 60, (30, 2))]).round(
            1
        ):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number + 1, "category_id": int(rng.integers(classes)) + 1,
                 "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )  # fmt: skip
    names = load_config([]).labels
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "val.json").write_text(json.dumps(document))


def merge_case(boxes: int) -> Case:
    """About so many detections of a scene's tiles, each object seen by every tile that shows part of it."""
    found = scene_detections(boxes)
    return {"merge": lambda: len(merge_scene(found))}, {"found": len(found.boxes)}


def scene_detections(boxes: int, tile: int = 608, overlap: float = 0.2) -> TileDetections:
    """Objects of 8 to 80 pixels at an even density, 100 a tile, as overlapping tiles would report them."""
    rng = np.random.default_rng(0)
    side = max(tile, round(tile * (1 - overlap) * (boxes / 100) ** 0.5))
    starts = tile_starts(side, tile, overlap)
    windows = np.array([(x, y, x + tile, y + tile) for y in starts for x in starts], np.float64)
    objects = round(boxes / (1 + overlap) ** 2)  # strips of the overlap are seen twice
    centre, sides = rng.uniform(0, side, (objects, 2)), rng.uniform(8, 80, (objects, 2))
    truth = np.concatenate([centre - sides / 2, centre + sides / 2], 1).clip(0, side)
    classes = rng.integers(0, 16, objects).astype(np.int32)
    by_row = np.argsort(truth[:, 1], kind="stable")
    truth, classes = truth[by_row], classes[by_row]
    found, labels, tiles = [], [], []
    for number, (x1, y1, x2, y2) in enumerate(windows):
        near = slice(np.searchsorted(truth[:, 1], y1 - 80), np.searchsorted(truth[:, 1], y2))
        clipped = truth[near].clip((x1, y1, x1, y1), (x2, y2, x2, y2))
        shown = ((clipped[:, 2:] - clipped[:, :2]) > 4).all(1)
        found.append(clipped[shown] + rng.normal(0, 0.5, (shown.sum(), 4)))
        labels.append(classes[near][shown])
        tiles.append(np.full(shown.sum(), number))
    total = sum(map(len, found))
    return TileDetections(
        np.concatenate(found), rng.uniform(0.3, 1, total).astype(np.float32), np.concatenate(labels),
        np.concatenate(tiles), windows, (side, side),
    )  # fmt: skip


if __name__ == "__main__":
    serve(
        {
            "forward": forward_case,
            "export": export_case,
            "exported": exported_case,
            "train": train_case,
            "parts": parts_case,
            "loss": loss_case,
            "augment": augment_case,
            "detect": detect_case,
            "evaluate": evaluate_case,
            "scene": scene_case,
            "split": split_case,
            "recorded": recorded_case,
            "merge": merge_case,
        }
    )
