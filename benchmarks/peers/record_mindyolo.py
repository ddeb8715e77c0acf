"""Record what MindYOLO 0.5.0 computes on fixed inputs, for the tests to compare with: tests/fixtures/mindyolo_*.npz.

    bash benchmarks/peers/install.sh
    benchmarks/peers/.venv/bin/python -m benchmarks.peers.record_mindyolo tests/fixtures

- `mindyolo_loss.npz`: raw maps `raw0..2` of strides 32, 16, 8 and `boxes` (x1 y1 x2 y2 class, in input pixels) of a
  small input, two boxes on one cell among them -> `loss`, `parts` (box, objectness, class) and the gradients of the
  loss to the maps.
- `mindyolo_step.npz`: one training step of the whole YOLOv4 (80 classes) on `images` (uint8 RGB) and `boxes`, each
  parameter filled from its name -> `loss`, `parts`, gradients of the heads (`grad:NAME`, every 64th input channel) and
  BatchNorm statistics after the step (`after:NAME`).
- `mindyolo_eval.npz`: images of several sizes -> `input:K`, what its evaluation feeds the network; decoded
  `predictions` -> `detections:K` (x1 y1 x2 y2 in the image, score, class).
- `mindyolo_rates.npz`: the learning rate of every step of a short schedule.

It divides the loss by 8, to be multiplied by the number of devices before the gradient: `loss` and gradients here are
those of eight devices, for which its recipe is.
"""

import os

os.environ.setdefault(
    "ONEDNN_MAX_CPU_ISA", "AVX2"
)  # before MindSpore: its 3x3 convolutions are slow otherwise

import sys
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindyolo.data import COCODataset
from mindyolo.models import create_loss, create_model
from mindyolo.models.heads.yolov4_head import DetectionBlock
from mindyolo.optim import create_group_param, create_optimizer
from mindyolo.utils.metrics import non_max_suppression, scale_coords
from mindyolo.utils.train_step_factory import create_train_step_fn, get_gradreducer, get_loss_scaler

from benchmarks.peers.mindyolo_yolov4 import ANCHORS, PADDED_BOXES, network_config

DEVICES = 8  # its loss is divided by so many
SMALL_HW = (96, 128)
# BatchNorm over few values makes much of rounding: the largest stride's maps are of 2 times 36 here.
STEP_HW = (192, 192)
LOSS = {
    "box": 10.0,
    "obj": 1.0,
    "cls": 1.0,
    "label_smoothing": 0.0,
    "ignore_threshold": 0.7,
    "iou_threshold": 0.213,
}


def labels_of(boxes: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
    """(N, max_box, 5) x1 y1 x2 y2 class, zeros behind, to its (N, 160, 6) image, class, x, y, w, h, -1 behind."""
    labels = np.full((len(boxes), PADDED_BOXES, 6), -1, np.float32)
    for image, rows in enumerate(boxes):
        rows = rows[rows[:, 2] > rows[:, 0]]
        corners = rows[:, :4] / np.tile(input_hw[::-1], 2)
        filled = labels[image, : len(rows)]
        filled[:, 0], filled[:, 1] = image, rows[:, 4]
        filled[:, 2:4] = (corners[:, :2] + corners[:, 2:]) / 2
        filled[:, 4:] = corners[:, 2:] - corners[:, :2]
    labels[:, :, 0] = np.arange(len(boxes))[:, None]  # as its collation has it, of padding rows too
    return labels


def fixed_boxes(classes: int) -> np.ndarray:
    """Objects of all sizes in two images: some share a cell and an anchor, some are small, one is of one pixel."""
    boxes = np.zeros((2, 16, 5), np.float32)
    first = [
        (11, 9, 37, 46, 0), (12, 10, 38, 47, 1), (12, 10, 38, 47, 2), (60, 30, 73, 47, 1), (66, 33, 68, 36, 3),
        (3, 2, 125, 93, 2), (90, 61, 91, 62, 0), (81, 5, 127, 95, 1), (40, 70, 49, 81, 3),
    ]  # fmt: skip
    second = [(17, 21, 59, 50, 3), (100, 1, 126, 22, 0), (33, 60, 111, 95, 1), (34, 61, 110, 94, 1)]
    for image, rows in enumerate((first, second)):
        boxes[image, : len(rows)] = rows
    boxes[..., 4] %= classes
    return boxes


def lay_over(raw: np.ndarray, box: np.ndarray) -> None:
    """Let the first anchor of stride 16 predict an object that is assigned to stride 8, and be sure of it."""
    stride, factor, (anchor_w, anchor_h) = 16, 1.1, ANCHORS[3]
    centre, sides = (box[:2] + box[2:4]) / 2 / stride, box[2:4] - box[:2]
    column, row = centre.astype(int)
    share = (centre - (column, row) + (factor - 1) / 2) / factor
    values = [*np.log(share / (1 - share)), *np.log(sides / (anchor_w, anchor_h)), 3.0]
    raw[0, : len(values), row, column] = values


def record_loss(folder: Path) -> None:
    """The loss on raw maps, and its gradients."""
    classes = 4
    rng = np.random.default_rng(3)
    shapes = [(2, 3 * (5 + classes), SMALL_HW[0] // s, SMALL_HW[1] // s) for s in (32, 16, 8)]
    raw = [rng.normal(0, 1.0, shape) for shape in shapes]
    boxes = fixed_boxes(classes)
    lay_over(raw[1], boxes[0, 8])
    raw = [ms.Tensor(values.astype(np.float32)) for values in raw]
    heads = nn.CellList([DetectionBlock(scale, ANCHORS, 5 + classes) for scale in "lms"])
    heads.set_train()
    loss = create_loss("YOLOv4Loss", **LOSS, anchors=ANCHORS, nc=classes)
    images = ms.Tensor(np.zeros((2, 3, *SMALL_HW), np.float32))
    labels = ms.Tensor(labels_of(boxes, SMALL_HW))

    def forward(a, b, c):
        total, items = loss((heads[0](a), heads[1](b), heads[2](c)), labels, images)
        return total * DEVICES, items

    @ms.jit
    def run(a, b, c):
        return ops.value_and_grad(forward, (0, 1, 2), has_aux=True)(a, b, c)

    (total, items), gradients = run(*raw)
    arrays = {f"raw{k}": value.asnumpy() for k, value in enumerate(raw)}
    arrays |= {f"grad{k}": value.asnumpy() for k, value in enumerate(gradients)}
    save(folder / "mindyolo_loss.npz", boxes=boxes, loss=total.asnumpy(), parts=items.asnumpy()[1:], **arrays)


def fill(network: nn.Cell) -> None:
    """Every parameter from its name, as tests/golden.py fills ours."""
    for parameter in network.get_parameters():
        rng, shape, last = (
            np.random.default_rng(zlib.crc32(parameter.name.encode())),
            parameter.shape,
            parameter.name,
        )
        last = last.rsplit(".", 1)[-1]
        if last in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif last in ("beta", "moving_mean", "bias"):
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.normal(0, np.sqrt(1 / np.prod(shape[1:])), shape)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))


def record_step(folder: Path) -> None:
    """One training step of the whole network."""
    classes = 80
    network = create_model("yolov4", network_config(1.0, [1, 2, 8, 8, 4]), num_classes=classes, sync_bn=False)
    fill(network)
    loss = create_loss("YOLOv4Loss", **LOSS, anchors=ANCHORS, nc=classes)
    groups = create_group_param(network.trainable_params(), **schedule(1, 1))
    optimizer = create_optimizer(groups, "momentum", lr=0.0, momentum=0.9, loss_scale=64)
    network.set_train()
    run = create_train_step_fn(
        task="detect", network=network, loss_fn=loss, optimizer=optimizer, loss_ratio=DEVICES,
        scaler=get_loss_scaler("none"), reducer=get_gradreducer(False, optimizer.parameters), ms_jit=True,
    )  # fmt: skip
    images = np.random.default_rng(7).integers(0, 256, (2, 3, STEP_HW[0] // 4, STEP_HW[1] // 4), np.uint8)
    images = images.repeat(4, 2).repeat(4, 3)
    boxes = fixed_boxes(classes)
    inputs = ms.Tensor(images.astype(np.float32) / 255), ms.Tensor(labels_of(boxes, STEP_HW))
    total, items, gradients, _ = run(*inputs)
    arrays = {}
    for parameter, gradient in zip(optimizer.parameters, gradients):
        if ".66.m." in parameter.name:
            value = gradient.asnumpy()
            arrays[f"grad:{parameter.name}"] = value[:, ::64] if value.ndim == 4 else value
    after = {parameter.name: parameter for parameter in network.get_parameters()}
    for layer in ("0", "22", "65.2.conv2"):
        for word in ("moving_mean", "moving_variance"):
            name = f"model.model.{layer}.bn.{word}"
            arrays[f"after:{name}"] = after[name].asnumpy()
    save(
        folder / "mindyolo_step.npz",
        images=images, boxes=boxes, loss=total.asnumpy(), parts=items.asnumpy()[1:], **arrays,
    )  # fmt: skip


def schedule(epochs: int, steps: int, warmup: int = 0) -> dict:
    """Its recipe's optimizer section, for so many epochs of so many steps."""
    return {
        "gp_weight_decay": 0.0005,
        "group_param": "yolov4",
        "start_factor": 1.0,
        "end_factor": 0.0,
        "lr_init": 0.012,
        "warmup_epochs": warmup,
        "min_warmup_step": 0,
        "accumulate": 1,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "total_batch_size": 128,
    }


def record_rates(folder: Path) -> None:
    """Learning rates of 10 epochs of 7 steps, 3 of warm-up."""
    weight = ms.Parameter(np.zeros(1, np.float32), name="conv.weight")
    groups = create_group_param([weight], **schedule(10, 7, 3))
    rates = np.array(groups[1]["lr"])
    save(folder / "mindyolo_rates.npz", epochs=10, steps=7, warmup=3, lr=0.012, rates=rates)


def record_eval(folder: Path) -> None:
    """Letterbox and post-processing of evaluation."""
    rng = np.random.default_rng(11)
    side, classes = 96, 6
    dataset = object.__new__(COCODataset)  # without its files
    dataset.img_size, dataset.augment, dataset.rect = side, False, False
    arrays: dict = {"side": side}
    scales = []
    for number, (width, height) in enumerate([(160, 97), (61, 43), (96, 50), (75, 131), (96, 96)]):
        coarse = (
            rng.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3))
            .repeat(6, 0)
            .repeat(6, 1)[:height, :width]
        )
        image = (coarse + rng.integers(-20, 21, coarse.shape)).clip(0, 255).astype(np.uint8)
        sample = {"bboxes": np.zeros((0, 4)), "bbox_format": "xywhn"}
        dataset.img_files, dataset.labels, dataset.imgs, dataset.img_hw_ori = (
            ["image.png"],
            [sample],
            [None],
            [None],
        )
        shown = read_as(image[:, :, ::-1], lambda: dataset.get_sample(0))
        boxed = dataset.letterbox(shown, (side, side), scaleup=False, only_image=True)
        arrays[f"image:{number}"] = image
        arrays[f"input:{number}"] = boxed["img"][:, :, ::-1].transpose(2, 0, 1)
        scales.append((boxed["ori_shape"], boxed["hw_scale"], boxed["hw_pad"]))

    predictions = []
    for _ in range(2):
        centres = rng.uniform(-4, side + 4, (30, 2)).repeat(9, 0) + rng.normal(0, 2.5, (270, 2))
        sizes = rng.uniform(6, 50, (30, 2)).repeat(9, 0) * np.exp(rng.normal(0, 0.12, (270, 2)))
        odds = rng.uniform(0, 1, (270, 1 + classes)) ** 4
        predictions.append(np.concatenate([centres, sizes, odds], 1))
    predictions = np.array(predictions, np.float32)
    found = non_max_suppression(
        predictions.copy(), conf_thres=0.001, iou_thres=0.65, conf_free=False, multi_label=True, time_limit=1e9
    )  # fmt: skip
    for number, rows in enumerate(found):
        shape, ratio, pad = scales[number]
        rows[:, :4] = scale_coords((side, side), rows[:, :4], shape, ratio=ratio, pad=pad)
        arrays[f"detections:{number}"] = rows
    save(folder / "mindyolo_eval.npz", predictions=predictions, **arrays)


def read_as(image: np.ndarray, call):
    """`call()` while OpenCV reads this BGR image, whatever file is asked for."""
    import cv2

    reader, cv2.imread = cv2.imread, lambda *_: image.copy()
    try:
        return call()
    finally:
        cv2.imread = reader


def save(path: Path, **arrays) -> None:
    """Write a fixture and say what it holds."""
    np.savez_compressed(path, **arrays)
    print(
        path, path.stat().st_size, {key: np.asarray(value).shape for key, value in list(arrays.items())[:12]}
    )
    for key in ("loss", "parts"):
        if key in arrays:
            print(" ", key, arrays[key])


def main() -> int:
    """Record everything into the folder that the command line names."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    folder, *chosen = sys.argv[1:]
    records = {"rates": record_rates, "eval": record_eval, "loss": record_loss, "step": record_step}
    for name in chosen or records:
        records[name](Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
