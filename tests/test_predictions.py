"""Final boxes of a file that suppresses by itself become detections without a second suppression."""

from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.config import NETWORK_OPTIONS, load_config
from src.detect.backends import ExportedModel
from src.detect.postprocess import PostprocessOptions
from src.detect.settings import DETECTIONS, OPTION_OF, ModelSettings
from src.transforms import ResizeGeometry

SETTINGS = ModelSettings(
    class_names=("ship", "plane"),
    anchors=((10, 10),) * 9,
    scale_x_y=(1.2, 1.1, 1.05),
    input_hw=(64, 96),
    batch_size=1,
    image_mean=(0, 0, 0),
    image_std=(1, 1, 1),
    input_type="uint8",
    outputs=DETECTIONS,
)
# x1 y1 x2 y2 in the input, score, class: the second overlaps the first with IoU 0.8, the last is all in the padding
TABLE = np.array(
    [[10, 20, 30, 40, 0.9, 1], [10, 20, 30, 36, 0.7, 1], [0, 8, 96, 60, 0.3, 0], [40, 60, 50, 64, 0.8, 0]],
    np.float32,
)
GEOMETRY = ResizeGeometry(0.5, 0.5, 0, 8)  # an image of 192 x 96 in the input with grey borders of 8 pixels


def detect(tables, **options):
    tables = iter(tables)
    model = ExportedModel(Path("net.onnx"), lambda batch: next(tables), SETTINGS)
    images = np.zeros((2, 3, 64, 96), np.uint8)
    return model.detect(images).detections([(192, 96)] * 2, [GEOMETRY] * 2, PostprocessOptions(**options))


def test_final_boxes_of_each_image_in_its_pixels():
    padded = np.concatenate([TABLE, np.zeros((3, 6), np.float32)])
    first, second = detect([[padded, np.float32([4])], [TABLE[:1]]], score_threshold=0.5, nms_threshold=1.0)
    np.testing.assert_array_equal(first.boxes, [[20, 24, 60, 64], [20, 24, 60, 56]])
    np.testing.assert_array_equal(first.scores, np.float32([0.9, 0.7]))
    assert first.classes.tolist() == [1, 1] and second.classes.tolist() == [1]
    assert second.boxes.tolist() == [[20, 24, 60, 64]]


def test_a_threshold_below_one_suppresses_again():
    for found in detect([[TABLE], [TABLE[::-1]]], nms_threshold=0.5):
        assert found.scores.tolist() == pytest.approx([0.9, 0.3])
        np.testing.assert_array_equal(found.boxes, [[20, 24, 60, 64], [0, 0, 192, 96]])


def test_the_most_detections_hold():
    found = detect([[TABLE], [TABLE]], nms_threshold=1.0, max_detections=1)[0]
    assert found.scores.tolist() == pytest.approx([0.9]) and found.capped


def test_multi_label_has_no_effect_and_is_refused():
    with pytest.raises(UserError, match="multi_label: the model gives each box its best class"):
        SETTINGS.laid_over(load_config(["--multi_label=1"]))


def test_what_travels_with_an_export_travels_with_a_checkpoint():
    assert set(OPTION_OF.values()) <= set(NETWORK_OPTIONS)
