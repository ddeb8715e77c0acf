"""Network and decoder in emulated float16, as a device without float32 would run them: boxes and AP at 608.

The head maps are drawn, as a trained network would give them for drawn objects; what float16 changes in a network is
measured on one and added to them; the decoder rounds every operation to float16.
"""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.base.heads import STRIDES, YOLOV4
from src.config import load_config
from src.detect.detections import to_table
from src.detect.postprocess import PostprocessOptions, postprocess
from src.evaluation.coco_metrics import evaluate_coco
from src.initializer import initialize
from src.train.network_setup import set_precision
from src.yolo import YoloDecoder, build_network
from tests.tiny import OPTIONS

SIDE, CLASSES, IMAGES, OBJECTS = 608, 2, 3, 60
ANCHORS_OF, FACTORS = YOLOV4.anchors, YOLOV4.scale_x_y


def logit(share):
    return np.log(share / (1 - share))


def drawn_maps(rng):
    """Head maps of an image (1, 3, 5 + C, H, W) for three strides, and its objects x y w h in pixels and class."""
    maps = [rng.normal(0, 1, (1, 3, 5 + CLASSES, SIDE // s, SIDE // s)) for s in STRIDES]
    for raw in maps:
        raw[:, :, 4] -= 9
    sizes = np.exp(rng.uniform(np.log(8), np.log(240), (OBJECTS, 2)))
    centres = sizes / 2 + rng.uniform(0, 1, (OBJECTS, 2)) * (SIDE - sizes)
    classes = rng.integers(0, CLASSES, OBJECTS)
    for centre, size, label in zip(centres, sizes, classes):
        shapes = np.array(ANCHORS_OF).reshape(-1, 2)
        common = np.minimum(shapes, size).prod(1)
        level, slot = divmod(int(np.argmax(common / (shapes.prod(1) + size.prod() - common))), 3)
        column, row = (centre // STRIDES[level]).astype(int)
        found = maps[level][0, :, :, row, column][slot]
        inside = centre / STRIDES[level] - (column, row) + rng.normal(0, 0.03, 2)
        factor = FACTORS[level]
        found[:2] = logit(np.clip((inside + (factor - 1) / 2) / factor, 0.01, 0.99))
        found[2:4] = np.log(size / shapes[level * 3 + slot]) + rng.normal(0, 0.05, 2)
        found[4] = rng.normal(1, 2)
        found[5:] = -4
        found[5 + (label if rng.random() < 0.9 else 1 - label)] = rng.normal(2, 1)
    boxes = np.concatenate([centres - sizes / 2, sizes], 1)
    return [raw.astype(np.float32) for raw in maps], boxes, classes


@np.errstate(over="ignore")  # exp() of a hopeless logit is infinite in float16, its share 0
def decode(maps, kind):
    """`YoloDecoder` with every operation rounded to a type."""
    decoded = []
    for raw, stride, anchors, factor in zip(maps, STRIDES, ANCHORS_OF, FACTORS):
        raw, grid = raw.astype(kind), SIDE // stride
        y, x = np.mgrid[:grid, :grid].astype(kind)
        one, half = kind(1), kind((factor - 1) / 2)
        xy = one / (one + np.exp(-raw[:, :, :2])) * kind(factor) - half + np.stack([x, y])
        wh = np.exp(raw[:, :, 2:4]) * (np.array(anchors) / SIDE).astype(kind)[None, :, :, None, None]
        rest = one / (one + np.exp(-raw[:, :, 4:]))
        out = np.concatenate([xy / kind(grid), wh, rest], 2)
        assert out.dtype == kind
        decoded.append(out.transpose(0, 3, 4, 1, 2).astype(np.float32))
    return decoded


@pytest.fixture(scope="module")
def error_of_the_network():
    """What float16 in all layers changes in the head maps of a slim network, for one image."""
    ms.set_context(mode=ms.GRAPH_MODE)
    image = Tensor(np.random.default_rng(0).normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32))
    outputs = []
    for level in ("O0", "O3"):
        network = build_network(load_config(OPTIONS)).set_train(False)
        initialize(network, 1)
        set_precision(network, level)
        outputs.append([raw.asnumpy().astype(np.float32) for raw in network(image)])
    differences = [half - full for full, half in zip(*outputs)]
    assert all(0 < np.abs(difference).max() < 0.1 for difference in differences)
    return [d.reshape(1, 3, 5 + CLASSES, *d.shape[2:]) for d in differences]


def test_boxes_and_ap_stand_half_precision(error_of_the_network, tmp_path):
    rng = np.random.default_rng(4)
    tables, images, annotations, moved = {np.float32: [], np.float16: []}, [], [], 0.0
    for number in range(1, IMAGES + 1):
        maps, boxes, classes = drawn_maps(rng)
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        for box, label in zip(boxes, classes):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1, "iscrowd": 0,
                 "bbox": box.tolist(), "area": float(box[2] * box[3])}
            )  # fmt: skip
        halves = [raw + error for raw, error in zip(maps, error_of_the_network)]
        decoded = {np.float32: decode(maps, np.float32), np.float16: decode(halves, np.float16)}
        if number == 1:  # the emulation is the decoder
            flat = [Tensor(raw.reshape(1, -1, *raw.shape[3:])) for raw in maps]
            for ours, theirs in zip(decoded[np.float32], YoloDecoder()(*flat)):
                np.testing.assert_allclose(ours, theirs.asnumpy(), rtol=1e-4, atol=1e-6)
        for full, half in zip(decoded[np.float32], decoded[np.float16]):
            confident = full[..., 4] > 0.1
            moved = max(moved, np.abs(full - half)[confident][:, :4].max() * SIDE)
        for kind, levels in decoded.items():
            found = postprocess([level[0] for level in levels], (SIDE, SIDE), PostprocessOptions())
            tables[kind].append(to_table(number, found, (1, 2)))
    names = [{"id": 1, "name": "ship"}, {"id": 2, "name": "plane"}]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": names})
    )
    full, half = (
        evaluate_coco(
            tmp_path / "truth.json", np.concatenate(tables[kind]), ("ship", "plane"), (1, 2)
        ).mean_ap
        for kind in (np.float32, np.float16)
    )
    print(f"AP {full:.4f} in float32, {half:.4f} in float16; boxes move by {moved:.3f} pixels")
    assert 0.2 < full < 0.95
    assert half > full - 0.01
    assert 0.01 < moved < 0.5
