"""YOLOv4 in PyTorch, written for the benchmark: the same layers, loss and update as the project's, on the CPU.

Targets, overlaps and sums follow the project's description (README, `src/loss.py`); what PyTorch does best is
used: cells with an object are gathered instead of computing box and class loss of all cells.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.serve import Case, serve

ANCHORS = torch.tensor(
    [[12, 16], [19, 36], [40, 28], [36, 75], [76, 55], [72, 146], [142, 110], [192, 243], [459, 401]]
).float()
SECOND_PASS_OVERLAP = 0.213
IGNORE_THRESHOLD = 0.7
SCALE_X_Y = {8: 1.2, 16: 1.1, 32: 1.05}


def block(inputs: int, outputs: int, kernel: int, stride: int = 1, activation=nn.Mish) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    act = nn.Mish(inplace=True) if activation is nn.Mish else nn.LeakyReLU(0.1, inplace=True)
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), act)


def leaky(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """`block` as neck and heads have it."""
    return block(inputs, outputs, kernel, stride, nn.LeakyReLU)


class Residual(nn.Module):
    """1x1 to `hidden`, 3x3 back, added."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.inner = nn.Sequential(block(channels, hidden, 1), block(hidden, channels, 3))

    def forward(self, x):
        return x + self.inner(x)


class Stage(nn.Module):
    """Halve the sides; half of the channels through residual blocks, half past them; join."""

    def __init__(self, inputs: int, outputs: int, blocks: int, first: bool = False):
        super().__init__()
        half = outputs if first else outputs // 2
        hidden = inputs if first else half
        self.down = block(inputs, outputs, 3, 2)
        self.past = block(outputs, half, 1)
        residuals = [Residual(half, hidden) for _ in range(blocks)]
        self.through = nn.Sequential(block(outputs, half, 1), *residuals, block(half, half, 1))
        self.join = block(2 * half, outputs, 1)

    def forward(self, x):
        x = self.down(x)
        return self.join(torch.cat((self.through(x), self.past(x)), 1))


def five(inputs: int, channels: int) -> nn.Sequential:
    """Five convolutions, 1x1 and 3x3 in turn."""
    return nn.Sequential(
        leaky(inputs, channels, 1), leaky(channels, 2 * channels, 3), leaky(2 * channels, channels, 1),
        leaky(channels, 2 * channels, 3), leaky(2 * channels, channels, 1),
    )  # fmt: skip


class Yolov4(nn.Module):
    """CSPDarknet53, SPP, PANet and three heads; raw maps of strides 32, 16, 8."""

    def __init__(self, classes: int, shape=(64, 128, 256, 512, 1024), layers=(1, 2, 8, 8, 4)):
        super().__init__()
        stem = shape[0] // 2
        self.stem = block(3, stem, 3)
        inputs = (stem, *shape[:-1])
        self.stages = nn.ModuleList(
            Stage(i, o, n, first=number == 0) for number, (i, o, n) in enumerate(zip(inputs, shape, layers))
        )
        c3, c4, c5 = (channels // 2 for channels in shape[2:])
        self.before_pool = nn.Sequential(leaky(2 * c5, c5, 1), leaky(c5, 2 * c5, 3), leaky(2 * c5, c5, 1))
        self.after_pool = nn.Sequential(leaky(4 * c5, c5, 1), leaky(c5, 2 * c5, 3), leaky(2 * c5, c5, 1))
        self.up16, self.side16 = leaky(c5, c4, 1), leaky(2 * c4, c4, 1)
        self.mix16 = five(2 * c4, c4)
        self.up8, self.side8 = leaky(c4, c3, 1), leaky(2 * c3, c3, 1)
        self.mix8 = five(2 * c3, c3)
        self.down16, self.out16 = leaky(c3, c4, 3, 2), five(2 * c4, c4)
        self.down32, self.out32 = leaky(c4, c5, 3, 2), five(2 * c5, c5)
        outputs = 3 * (5 + classes)
        self.head32, self.head16, self.head8 = (
            nn.Sequential(leaky(c, 2 * c, 3), nn.Conv2d(2 * c, outputs, 1)) for c in (c5, c4, c3)
        )

    def forward(self, x):
        maps = []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        side8, side16, top = maps[2:]
        top = self.before_pool(top)
        pooled5 = F.max_pool2d(top, 5, 1, 2)
        pooled9 = F.max_pool2d(pooled5, 5, 1, 2)
        pooled13 = F.max_pool2d(pooled9, 5, 1, 2)
        top = self.after_pool(torch.cat((pooled13, pooled9, pooled5, top), 1))
        middle = torch.cat((F.interpolate(self.up16(top), scale_factor=2), self.side16(side16)), 1)
        middle = self.mix16(middle)
        low = self.mix8(torch.cat((F.interpolate(self.up8(middle), scale_factor=2), self.side8(side8)), 1))
        middle = self.out16(torch.cat((self.down16(low), middle), 1))
        top = self.out32(torch.cat((self.down32(middle), top), 1))
        return self.head32(top), self.head16(middle), self.head8(low)


@torch.no_grad()
def assign(boxes: torch.Tensor, size: int) -> dict[int, tuple]:
    """Cells with an object, of each stride.

    Args:
        boxes: (m, 6) image, x1, y1, x2, y2 in input pixels, class.
        size: side of the input.

    Returns:
        For a stride: flat cell numbers (k,) of (image, anchor, row, column), the boxes (k,) that won them, and
        cell (j,) and class (j,) of every box that was assigned there, also of those that did not win.
    """
    sides = boxes[:, 3:5] - boxes[:, 1:3]
    common = torch.minimum(sides[:, None], ANCHORS).prod(-1)
    overlap = common / (sides.prod(-1)[:, None] + ANCHORS.prod(-1) - common)
    best = F.one_hot(overlap.argmax(1), len(ANCHORS)).bool()
    number = torch.arange(1, len(boxes) + 1)[:, None]
    # A box that is over the threshold comes after one that only fits best; the later box of two wins.
    priority = torch.where(best, number, 0)
    priority = torch.where(overlap > SECOND_PASS_OVERLAP, number + len(boxes), priority)
    share = (boxes[:, 1:3] + boxes[:, 3:5]) / 2 / size
    found = {}
    for level, stride in enumerate((8, 16, 32)):
        grid = size // stride
        box, anchor = torch.nonzero(priority[:, 3 * level : 3 * level + 3], as_tuple=True)
        cell = (share[box] * grid).long().clamp(0, grid - 1)
        flat = ((boxes[box, 0].long() * 3 + anchor) * grid + cell[:, 1]) * grid + cell[:, 0]
        rank = priority[box, 3 * level + anchor]
        cells, place = torch.unique(flat, return_inverse=True)
        best_rank = torch.zeros(len(cells), dtype=torch.long).scatter_reduce(0, place, rank, "amax")
        winner = (best_rank - 1) % max(len(boxes), 1)
        found[stride] = cells, winner, place, boxes[box, 5].long()
    return found


def giou_loss(box: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """1 - GIoU of pairs (k, 4) of centre and size (https://arxiv.org/abs/1902.09630)."""
    low, high = box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2
    true_low, true_high = truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2
    common = (torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp(min=0).prod(1)
    union = box[:, 2:].prod(1) + truth[:, 2:].prod(1) - common + 1e-6
    hull = (torch.maximum(high, true_high) - torch.minimum(low, true_low)).prod(1) + 1e-6
    return 1 - (common / union - (hull - union) / hull).clamp(-1, 1)


@torch.no_grad()
def overlaps_object(boxes: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """(cells,) whether a prediction's IoU with any of the objects reaches the threshold; boxes centre and size."""
    if not len(truth):
        return torch.zeros(len(boxes), dtype=torch.bool)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    true_low, true_high = truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2
    area, true_area = boxes[:, 2:].prod(1), truth[:, 2:].prod(1)
    result = torch.zeros(len(boxes), dtype=torch.bool)
    for start in range(0, len(truth), 64):
        part = slice(start, start + 64)
        w = torch.minimum(high[:, :1], true_high[part, 0]) - torch.maximum(low[:, :1], true_low[part, 0])
        h = torch.minimum(high[:, 1:], true_high[part, 1]) - torch.maximum(low[:, 1:], true_low[part, 1])
        common = w.clamp_(min=0).mul_(h.clamp_(min=0))
        total = area[:, None] + true_area[part]
        result |= (common * (1 + IGNORE_THRESHOLD) >= total * IGNORE_THRESHOLD).any(1)
    return result


def yolo_loss(raw: tuple[torch.Tensor, ...], boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Loss of a batch: 10 (2 - w h) GIoU loss, objectness and class cross entropy, summed, over the batch.

    Args:
        raw: maps (N, 3 (5 + C), H, W) of strides 32, 16, 8.
        boxes: (m, 6) image, x1, y1, x2, y2, class.
        size: side of the input.
    """
    assigned = assign(boxes, size)
    shares = torch.cat(((boxes[:, 1:3] + boxes[:, 3:5]) / 2, boxes[:, 3:5] - boxes[:, 1:3]), 1) / size
    total = 0.0
    for level, (stride, out) in enumerate(zip((32, 16, 8), raw)):
        n, channels, height, width = out.shape
        out = out.view(n, 3, channels // 3, height, width).permute(0, 1, 3, 4, 2)
        s = SCALE_X_Y[stride]
        anchors = ANCHORS[6 - 3 * level : 9 - 3 * level].view(1, 3, 1, 1, 2) / size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        corner = torch.stack((columns, rows), -1).float()

        def decode(values, corner=corner, anchors=anchors, s=s, grid=width):
            xy = (torch.sigmoid(values[..., :2]) * s - (s - 1) / 2 + corner) / grid
            return torch.cat((xy, torch.exp(values[..., 2:4].clamp(max=20)) * anchors), -1)

        cells, winner, place, classes = assigned[stride]
        with torch.no_grad():
            decoded = decode(out)
            ignored = torch.zeros(n, 3, height, width, dtype=torch.bool)
            for image in range(n):
                won = torch.unique(winner[boxes[winner, 0] == image])
                over = overlaps_object(decoded[image].reshape(-1, 4), shares[won])
                ignored[image] = over.view(3, height, width)
            has_object = torch.zeros(n * 3 * height * width)
            has_object[cells] = 1
            counted = torch.maximum(has_object, 1 - ignored.float().view(-1))
        objectness = out[..., 4].reshape(-1)
        object_loss = F.binary_cross_entropy_with_logits(objectness, has_object, counted, reduction="sum")

        picked = out.reshape(-1, channels // 3)[cells]
        anchor_of = anchors.view(3, 2)[cells // (height * width) % 3]
        corner_of = corner.view(-1, 2)[cells % (height * width)]
        truth = shares[winner]
        weight = 2 - truth[:, 2] * truth[:, 3]
        box_loss = (weight * giou_loss(decode(picked, corner_of, anchor_of), truth)).sum()
        target = torch.zeros(len(cells), channels // 3 - 5)
        target[place, classes] = 1
        class_loss = F.binary_cross_entropy_with_logits(picked[:, 5:], target, reduction="sum")
        total = total + (10 * box_loss + object_loss + class_loss) / n
    return total


def create_optimizer(network: nn.Module) -> torch.optim.SGD:
    """SGD with momentum; convolution weights decay. A rate of zero: the work is the same, the network stays."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.0005}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9)


def build(classes: int, shape, layers, threads: int) -> tuple[Yolov4, dict]:
    """The network with random weights, and what the table says of it."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Yolov4(classes, shape, layers)
    return network, {"parameters": sum(p.numel() for p in network.parameters()), "torch": torch.__version__}


def forward_case(classes: int, size: int, batch: int, shape, layers, threads: int) -> Case:
    """Evaluation mode, BatchNorm not folded."""
    network, info = build(classes, shape, layers, threads)
    network.eval()
    images = torch.rand(batch, 3, size, size)

    def run() -> None:
        with torch.inference_mode():
            network(images)

    return {"forward": run}, info


def as_rows(boxes: np.ndarray) -> torch.Tensor:
    """(N, max_box, 5) padded with zero rows to (m, 6) with the image's number in front."""
    image, row = np.nonzero((boxes[..., 2:4] > boxes[..., :2]).all(-1))
    rows = np.concatenate([image[:, None], boxes[image, row]], 1)
    return torch.from_numpy(rows.astype(np.float32))


def train_case(classes: int, size: int, data: str, shape, layers, threads: int) -> Case:
    """A whole step: normalise, forward, loss, backward, SGD with momentum."""
    network, info = build(classes, shape, layers, threads)
    network.train()
    optimizer = create_optimizer(network)
    arrays = np.load(data)
    images, boxes = torch.from_numpy(arrays["images"]), as_rows(arrays["boxes"])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255

    def step() -> float:
        loss = yolo_loss(network((images.float() - mean) / std), boxes, size)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return {"step": step}, info


def loss_case(data: str, threads: int) -> Case:
    """Loss and gradient on the raw maps of a file, to compare with the project's."""
    torch.set_num_threads(threads)
    arrays = np.load(data)
    raw = [torch.from_numpy(arrays[f"raw{level}"]).requires_grad_() for level in range(3)]
    boxes, size = as_rows(arrays["boxes"]), int(arrays["size"])

    def value() -> list[float]:
        for level in raw:
            level.grad = None
        loss = yolo_loss(raw, boxes, size)
        loss.backward()
        return [float(loss.detach()), *(float(level.grad.abs().sum()) for level in raw)]

    return {"value": value}, {}


if __name__ == "__main__":
    serve({"forward": forward_case, "train": train_case, "loss": loss_case})
