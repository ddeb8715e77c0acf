"""YOLOv4-tiny: assignment and loss for other heads than YOLOv4's, and a whole run from training to every export."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.base.errors import UserError
from src.base.heads import ANCHORS, YOLOV4, Heads
from src.commands.inference import main as infer
from src.config import load_config
from src.detect.backends import open_model
from src.export.export import export_model
from src.loss import YoloLoss
from src.runtime.device import Runtime
from src.targets import TargetAssigner
from src.train.run import start_run
from src.train.trainer import fit
from src.weights.checkpoint import read_checkpoint
from tests.tiny import NAMES, OPTIONS

# As YOLOv4's coarser two heads, so that its loss, which goldens hold, is the judge.
COARSE = Heads.of("yolov4-tiny", ANCHORS[3:], (1.1, 1.05))
NETWORK = ["--network=yolov4-tiny", "--backbone_input_shape=3,8,16,16,32", "--backbone_shape=8,16,16,32,32"]
WORDS = [*(word for word in OPTIONS if not word.startswith("--backbone")), *NETWORK]


@pytest.fixture(autouse=True, scope="module")
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def config_of(*words: str, program: str = ""):
    return load_config([*WORDS, *words], entry_point=program)


def test_defaults_follow_the_network():
    config = load_config(["--network=yolov4-tiny"])
    assert config.heads.strides == (32, 16) and config.eval_input_hw == (416, 416)
    assert config.heads.anchors[1] == ((23, 27), (37, 58), (81, 82)) and config.heads.scale_x_y == (
        1.05,
        1.05,
    )
    finer = load_config(["--network=yolov4-tiny-3l", "--test_img_shape=320,320"])
    assert finer.heads.strides == (32, 16, 8) and finer.eval_input_hw == (320, 320)
    assert load_config([]).heads == YOLOV4
    with pytest.raises(UserError, match="anchor_scales: needs 6 entries for network yolov4-tiny, found 9"):
        load_config(["--network=yolov4-tiny", f"--anchor_scales={np.array(ANCHORS, int).tolist()}"])
    with pytest.raises(
        UserError, match=r"lateral_kernel: 3 .command line. has no effect in network yolov4-tiny"
    ):
        load_config(["--network=yolov4-tiny", "--lateral_kernel=3"])
    with pytest.raises(UserError, match="did you mean yolov4-tiny"):
        load_config(["--network=yolov4tiny"])


def test_boxes_go_to_every_anchor_that_fits():
    """One box an image against a loop: the best anchor, and all that it overlaps by more than 0.213."""
    rng = np.random.default_rng(0)
    heads = load_config(["--network=yolov4-tiny"]).heads
    sides = np.exp(rng.uniform(np.log(6), np.log(190), (40, 2)))
    corner = rng.uniform(0, 192 - sides)
    boxes = np.concatenate([corner, corner + sides, rng.integers(0, 3, (40, 1))], 1).astype(np.float32)
    assigned, truth, _, in_stride = (
        out.asnumpy() for out in TargetAssigner(3, heads)(Tensor(boxes[:, None]), (192, 192))
    )
    assert assigned.shape == (40, 3, 6 * 6 + 12 * 12) and in_stride.shape == (40, 1, 2)
    several = 0
    for image, (x1, y1, x2, y2, _) in enumerate(boxes.astype(np.float64)):
        overlaps = {}
        for level, anchors in enumerate(heads.anchors):
            for slot, (w, h) in enumerate(anchors):
                common = min(x2 - x1, w) * min(y2 - y1, h)
                overlaps[level, slot] = common / ((x2 - x1) * (y2 - y1) + w * h - common)
        wanted = np.zeros_like(assigned[image])
        best = max(
            overlaps, key=lambda place: (overlaps[place], place[0])
        )  # of an anchor in both heads the finer one's
        for (level, slot), overlap in overlaps.items():
            if overlap > 0.213 or (level, slot) == best:
                stride, first = heads.strides[level], (0, 36)[level]
                cell = int((y1 + y2) / 2 // stride) * (192 // stride) + int((x1 + x2) / 2 // stride)
                wanted[slot, first + cell] = 1
                several += 1
        np.testing.assert_array_equal(assigned[image], wanted)
        assert (in_stride[image, 0] == [wanted[:, :36].any(), wanted[:, 36:].any()]).all()
        slot, cell = np.argwhere(wanted)[0]
        np.testing.assert_allclose(truth[0, image, slot, cell], (x1 + x2) / 2 / 192, rtol=1e-5)
    assert several > 60


def gradients_of(loss, raw, boxes, levels: int) -> list[np.ndarray]:
    run = ms.jit(ms.value_and_grad(loss, grad_position=tuple(range(levels)), has_aux=True))
    return [gradient.asnumpy() for gradient in run(*map(Tensor, raw), Tensor(boxes))[1]]


@pytest.mark.parametrize(
    "options",
    [{}, {"assignment": "pair", "ignore_scope": "image", "padding_is_object": True}],
    ids=["published", "pair"],
)
def test_loss_of_two_heads_is_that_of_yolov4s_coarser_two(options):
    """With objects that no anchor of stride 8 fits, the parts of strides 32 and 16 and their gradients are the same."""
    rng = np.random.default_rng(1)
    raw = [rng.normal(0, 1, (2, 3 * 7, 320 // s, 320 // s)).astype(np.float32) for s in (32, 16, 8)]
    boxes = np.zeros((2, 5, 5), np.float32)
    for image in range(2):
        for row in range(4):
            w, h = rng.uniform(80, 200, 2)
            x, y = rng.uniform(0, 320 - w), rng.uniform(0, 320 - h)
            boxes[image, row] = [x, y, x + w, y + h, row % 2]
    _, parts = YoloLoss(2, **options)(*map(Tensor, raw), Tensor(boxes))
    total, ours = YoloLoss(2, heads=COARSE, **options)(*map(Tensor, raw[:2]), Tensor(boxes))
    assert ours.shape == (2, 3) and (ours.asnumpy() > 0).all()
    np.testing.assert_allclose(ours.asnumpy(), parts.asnumpy()[:2], rtol=1e-5)
    np.testing.assert_allclose(total.asnumpy(), ours.asnumpy().sum(), rtol=1e-5)
    wide = gradients_of(YoloLoss(2, **options), raw, boxes, 3)
    narrow = gradients_of(YoloLoss(2, heads=COARSE, **options), raw[:2], boxes, 2)
    for theirs, mine in zip(wide[:2], narrow, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


def test_gains_are_one_for_each_head():
    with pytest.raises(UserError, match="detect_head_loss_coff"):
        YoloLoss(2, heads=COARSE, head_gains=(1, 1, 1))


@pytest.fixture(scope="module")
def finished(tiles, tmp_path_factory):
    """The folder of a run of two epochs of three steps, a checkpoint each step, evaluated at the end."""
    return trained(
        tiles, tmp_path_factory.mktemp("out"), "--ckpt_interval=1", "--run_eval=1", "--eval_start_epoch=2"
    )


def trained(tiles, out, *words: str):
    places = [f"--data_dir={tiles}", f"--ckpt_path={out}", f"--log_path={out}"]
    run = start_run(config_of(*places, *words), Runtime())
    fit(run)
    return run.folder.path


def test_a_resumed_run_is_the_uninterrupted_one(finished, tiles, tmp_path):
    last = sorted(finished.glob("ckpt_0/*_6.ckpt"))[-1]
    third = sorted(finished.glob("ckpt_0/*_3.ckpt"))[-1]
    again = trained(tiles, tmp_path, f"--resume_yolov4={third}")
    values, state = read_checkpoint(last)
    others, _ = read_checkpoint(sorted(again.glob("ckpt_0/*_6.ckpt"))[-1])
    assert all(np.array_equal(values[name], others[name]) for name in values)
    assert state["options"]["network"] == "yolov4-tiny" and state["options"]["labels"] == NAMES
    assert (finished / "report.html").is_file() and (finished / "results.csv").is_file()


def test_all_exports_give_the_checkpoints_maps(finished, tmp_path):
    """The network's name travels: the files are opened without any option of the network."""
    checkpoint = sorted(finished.glob("ckpt_0/*_6.ckpt"))[-1]
    images = np.random.default_rng(2).integers(0, 256, (2, 3, 96, 96), np.uint8)
    backend, config = open_model(load_config([f"--pretrained={checkpoint}", "--device_target=CPU"]))
    assert config.network == "yolov4-tiny" and config.eval_input_hw == (96, 96)
    maps = backend.predict(images)
    assert [level.shape for level in maps] == [(2, 3, 3, 3, 7), (2, 6, 6, 3, 7)]
    for number, words in enumerate(
        (["--file_format=ONNX"], ["--file_format=ONNX", "--keep_detect=0"], ["--file_format=MINDIR"])
    ):
        path = exported(checkpoint, tmp_path / f"net{number}", *words)
        other, opened = open_model(load_config([f"--pretrained={path}", "--device_target=CPU"]))
        assert opened.network == "yolov4-tiny"
        for mine, theirs in zip(other.predict(images), maps, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def exported(checkpoint, path, *words: str):
    options = [f"--ckpt_file={checkpoint}", f"--file_name={path}", "--device_target=CPU", *words]
    return export_model(load_config(options, entry_point="export"))


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_final_boxes_in_the_file_are_inferences(finished, tiles, tmp_path, form):
    """End-to-end ONNX against the checkpoint, over a folder of images as `inference.py` goes through them."""
    checkpoint = sorted(finished.glob("ckpt_0/*_6.ckpt"))[-1]
    path = exported(
        checkpoint, tmp_path / "net", "--file_format=ONNX", "--end_to_end=1", f"--end_to_end_form={form}",
        "--eval_ignore_threshold=0.01",
    )  # fmt: skip
    found = []
    for number, model in enumerate((checkpoint, path)):
        words = [f"--model={model}", f"--img_path={tiles / 'val'}", f"--log_path={tmp_path / str(number)}"]
        words += ["--infer_threshold=0.01", "--tile_size=200", "--device_target=CPU"]
        infer(words)
        (file,) = (tmp_path / str(number)).rglob("detections.json")
        found.append(json.loads(file.read_text()))
    ours, theirs = (
        sorted(
            (image["file"], each["class"], round(each["score"], 3), *np.round(each["box"], 1))
            for image in document
            for each in image["detections"]
        )
        for document in found
    )
    assert len(ours) > 10
    assert len(set(ours) ^ set(theirs)) <= 0.02 * len(ours)
