"""MindYOLO 0.5.0's YOLOv4: its network, loss, optimizer and training step from its package, in graph mode.

The package brings no configuration files; `network_config` says in its language what its YOLOv4 is made of. Its
recipe's half precision (O2) is left out, as it is on our side: both compute in float32.
"""

import mindspore as ms
import mindyolo
import numpy as np
from mindyolo.models import create_loss, create_model
from mindyolo.optim import create_group_param, create_optimizer
from mindyolo.utils.train_step_factory import create_train_step_fn, get_gradreducer, get_loss_scaler

from benchmarks.peers.serve import Case, serve

ANCHORS = [
    [142, 110], [192, 243], [459, 401], [36, 75], [76, 55], [72, 146], [12, 16], [19, 36], [40, 28],
]  # fmt: skip
PADDED_BOXES = 160  # of its recipe


class Config(dict):
    """Entries as attributes, as its model factory reads them."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def network_config(width: float, layers: list[int]) -> Config:
    """Layers as (from, number, kind, arguments); `width` multiplies the channels, `layers` counts the blocks."""
    mish, leaky = "act=nn.Mish()", "act=nn.LeakyReLU(0.1)"
    backbone: list = []

    def conv(rows: list, channels: int, kernel: int = 1, stride: int = 1, source: int = -1, act: str = mish):
        rows.append([source, 1, "ConvNormAct", [channels, kernel, stride, act]])

    conv(backbone, 32, 3)
    for channels, blocks in zip((64, 128, 256, 512, 1024), layers):
        half = channels if channels == 64 else channels // 2
        conv(backbone, channels, 3, 2)
        down = len(backbone) - 1
        conv(backbone, half)
        kind = "Bottleneck" if channels == 64 else "Residualblock"
        backbone.append([-1, blocks, kind, [half, mish]])
        conv(backbone, half)
        conv(backbone, half, source=down)
        backbone.append([[-2, -1], 1, "Concat", [1]])
        conv(backbone, channels)
    stride8, stride16 = (
        number - 1 for number, row in enumerate(backbone) if row[3][:3] in ([512, 3, 2], [1024, 3, 2])
    )

    head: list = []

    def neck(channels: int, kernel: int = 1, stride: int = 1, source: int = -1):
        conv(head, channels, kernel, stride, source, leaky)

    def pairs(count: int, channels: int):
        """1x1 to half the channels, 3x3 to all, so many times."""
        head.append([-1, count, "Bottleneck", [channels, False, leaky]])

    def join(*sources: int):
        head.append([list(sources), 1, "Concat", [1]])

    pairs(1, 1024)
    neck(512)
    for back, window in ((-1, 5), (-2, 9), (-3, 13)):
        head.append([back, 1, "nn.MaxPool2d", [window, 1, "same"]])
    join(-1, -2, -3, -4)
    neck(512)
    neck(1024, 3)
    neck(512)
    for channels, side in ((256, stride16), (128, stride8)):
        neck(channels, 1 if channels == 256 else 3)
        head.append([-1, 1, "Upsample", [None, 2, "nearest"]])
        neck(channels, source=side)
        join(-2, -1)
        pairs(2, 2 * channels)
        neck(channels)
    neck(256, 3)
    neck(256, 3, 2, source=-2)
    join(-1, -9)
    pairs(2, 512)
    neck(256)
    neck(512, 3)
    neck(512, 3, 2, source=-2)
    join(-1, -20)
    pairs(3, 1024)
    head.append([[-1, -4, -9], 1, "YOLOv4Head", ["nc", "anchors"]])
    return Config(
        depth_multiple=1.0, width_multiple=width, stride=[32, 16, 8], anchors=ANCHORS, backbone=backbone, head=head
    )  # fmt: skip


def its_labels(boxes: np.ndarray, size: int) -> np.ndarray:
    """(N, max_box, 5) x1 y1 x2 y2 class to its (N, 160, 6) image, class, x, y, w, h in 0..1, padded with -1."""
    labels = np.full((len(boxes), PADDED_BOXES, 6), -1, np.float32)
    for image, rows in enumerate(boxes):
        rows = rows[(rows[:, 2:4] > rows[:, :2]).all(1)][:PADDED_BOXES]
        corners = rows[:, :4] / size
        filled = labels[image, : len(rows)]
        filled[:, 0], filled[:, 1] = image, rows[:, 4]
        filled[:, 2:4] = (corners[:, :2] + corners[:, 2:]) / 2
        filled[:, 4:] = corners[:, 2:] - corners[:, :2]
    return labels


def train_case(classes: int, size: int, data: str, width: float, layers: list[int]) -> Case:
    """A whole step: forward, loss, backward, Momentum; images arrive as float32 in 0..1, as its loader has it."""
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    ms.set_seed(0)
    network = create_model("yolov4", network_config(width, layers), num_classes=classes, sync_bn=False)
    loss = create_loss(
        "YOLOv4Loss", box=10.0, obj=1.0, cls=1.0, label_smoothing=0.0, ignore_threshold=0.7, iou_threshold=0.213,
        anchors=ANCHORS, nc=classes,
    )  # fmt: skip
    groups = create_group_param(
        network.trainable_params(), gp_weight_decay=0.0005, group_param="yolov4", start_factor=1.0, end_factor=0.0,
        lr_init=0.0, warmup_epochs=1, min_warmup_step=1, accumulate=1, epochs=2, steps_per_epoch=1000,
        total_batch_size=64,
    )  # fmt: skip
    optimizer = create_optimizer(groups, "momentum", lr=0.0, momentum=0.9, loss_scale=64)
    network.set_train()
    optimizer.set_train()
    run = create_train_step_fn(
        task="detect", network=network, loss_fn=loss, optimizer=optimizer, loss_ratio=1.0,
        scaler=get_loss_scaler("none"), reducer=get_gradreducer(False, optimizer.parameters), ms_jit=True,
    )  # fmt: skip
    arrays = np.load(data)
    images = ms.Tensor(arrays["images"].astype(np.float32) / 255)
    labels = ms.Tensor(its_labels(arrays["boxes"], size))

    def step() -> float:
        total, items, *_ = run(images, labels)
        items.asnumpy()
        return float(total.asnumpy())

    parameters = sum(parameter.size for parameter in network.trainable_params())
    return {"step": step}, {"parameters": parameters, "mindyolo": mindyolo.__version__}


if __name__ == "__main__":
    serve({"train": train_case})
