"""The benchmark suite's own arithmetic, and that what it compares does the same work."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import data_path
from benchmarks.machine import describe_machine
from benchmarks.maps import decoded_maps
from benchmarks.on_paper import Machine, demands, host_bytes, parameter_count, ring_bytes
from benchmarks.peers.published_method import augment, detect, hsv_to_rgb, rgb_to_hsv
from benchmarks.scaling import describe, exponent, image
from benchmarks.table import Row, compare, plain, table
from benchmarks.workers import ROOT, Timing, Worker, WorkerError, interleave, paired_ratio
from src.detect.postprocess import PostprocessOptions, postprocess

FULL, LAYERS = (64, 128, 256, 512, 1024), (1, 2, 8, 8, 4)


def test_table_says_what_was_measured_and_whether_the_goal_is_met():
    rows = [
        Row("a", "step", 2.0, "s", "peer", 4.0, 0.5, 0.65),
        Row("b", "step", 5.0, "s", "peer", 4.0, 1.25, 1.2),
        Row("c", "start", 15.0, "s", goal=15),
        Row("d", "memory", 1234.5, "MB", "peer", 1000.0, 1.2345, note="for information"),
    ]
    lines = table(rows).splitlines()
    assert lines[2] == "| step | 2.00 s | peer 4.00 s | 0.50 | ≤ 0.65 × | yes |"
    assert lines[3] == "| step | 5.00 s | peer 4.00 s | 1.25 | ≤ 1.2 × | no |"
    assert lines[4] == "| start | 15.0 s |  |  | ≤ 15.0 s | yes |"
    assert lines[5] == "| memory (for information) | 1234 MB | peer 1000 MB | 1.23 |  |  |"


def test_ratio_is_of_neighbouring_runs():
    # A load that triples both in the middle does not move it, as it would a ratio of means.
    assert paired_ratio([1, 3, 1.1], [2, 6, 2.2]) == pytest.approx(0.5)
    timings = {"ours": Timing(seconds=[0.2, 0.4]), "peer": Timing(seconds=[0.1, 0.1])}
    (row,) = compare("k", "work", timings, {"peer": 2.0}, "ms", per=10)
    assert (row.ours, row.value, row.ratio, row.met) == (pytest.approx(30), pytest.approx(10), 3.0, "no")


def test_json_has_no_nan():
    assert json.loads(json.dumps(plain({"a": [math.nan, 1.0], "b": (math.inf,)}), allow_nan=False)) == {
        "a": [None, 1.0],
        "b": [None],
    }


def test_machine_names_processor_memory_and_versions():
    machine = describe_machine()
    assert machine["cores"] >= 1 and machine["memory_gb"] > 0
    assert machine["versions"]["numpy"] == np.__version__
    assert len(machine["load_at_start"]) == 3


def write_worker(folder: Path) -> None:
    (folder / "toy_worker.py").write_text(
        "import time\n"
        "from benchmarks.peers.serve import serve\n"
        "def case(start):\n"
        "    print('noise of a library')\n"
        "    count = [start]\n"
        "    def run():\n"
        "        count[0] += 1\n"
        "        time.sleep(0.02)\n"
        "        return count[0]\n"
        "    return {'run': run, 'fail': lambda: 1 / 0}, {'started': start}\n"
        "serve({'case': case})\n"
    )


def test_workers_take_turns_and_rest_in_between(tmp_path):
    write_worker(tmp_path)
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with (
        Worker("toy_worker", "case", environment=path, start=10) as first,
        Worker("toy_worker", "case", environment=path, start=20) as second,
    ):
        assert first.info["started"] == 10 and first.info["peak_imports"] > 1_000_000
        timings = interleave({"a": (first, "run"), "b": (second, "run")}, repeats=3, warm_ups=1)
    assert timings["a"].values == [11, 12, 13, 14] and timings["b"].values == [21, 22, 23, 24]
    for timing in timings.values():
        assert len(timing.seconds) == 3 and min(timing.seconds) >= 0.02
        assert max(timing.processor) < 0.02
    assert first.process.returncode == 0


def test_a_worker_that_fails_says_why(tmp_path):
    write_worker(tmp_path)
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    with (
        Worker("toy_worker", "case", environment=path, start=0) as worker,
        pytest.raises(WorkerError, match="ZeroDivisionError"),
    ):
        worker.run("fail")


def test_projects_processes_never_import_peers():
    files = set((ROOT / "benchmarks").glob("*.py"))
    assert ROOT / "benchmarks/ours.py" in files
    for path in files:
        assert not re.search(r"^\s*(import|from) (torch|mindyolo)\b", path.read_text(), re.MULTILINE), path


# ---------------------------------------------------------------- on paper


def test_parameter_count_is_that_of_the_published_list():
    values = tensors = 0
    for line in (Path(__file__).parent / "fixtures/parameters_dota16.txt").read_text().splitlines():
        name, shape, kind = line.split("\t")
        unused = name.startswith(("feature_map.backblock0.conv5", "feature_map.backblock0.conv6"))
        if kind == "trainable" and not unused:
            tensors += 1
            values += math.prod(int(side) for side in re.findall(r"\d+", shape))
    assert parameter_count(16, FULL, LAYERS) == (values, tensors)


def test_bytes_against_closed_forms():
    assert host_bytes(8, 608, 600) == 8 * 3 * 608**2 + 8 * 600 * 20
    # Two cards exchange halves: each sends half of the sum and half of the result.
    assert ring_bytes(1000, 2) == 4000
    assert ring_bytes(1000, 64) == pytest.approx(2 * 63 / 64 * 4000)


def test_demands_of_eight_and_sixty_four_cards():
    machine = Machine(cards_a_host=8, cores=96, link=12.5e9, image_seconds=0.01, file_bytes=5e5)
    eight, many = (demands(cards, 8, 608, 0.5, 64_000_000, machine) for cards in (8, 64))
    assert (eight["images_a_second"], many["images_a_second"]) == (128, 1024)
    assert eight["cores_needed"] == many["cores_needed"] == pytest.approx(1.28)
    assert many["storage"] == pytest.approx(1024 * 5e5)
    assert eight["all_reduce_seconds"] == pytest.approx(2 * 7 / 8 * 256e6 / 12.5e9)
    assert eight["efficiency"] == pytest.approx(0.5 / (0.5 + eight["all_reduce_seconds"]))
    # A step that is shorter than what the cores can feed waits for them.
    slow = Machine(8, 1, 12.5e9, 0.1, 5e5)
    assert demands(8, 8, 608, 0.5, 1, slow)["efficiency"] == pytest.approx(0.5 / (64 * 0.1))


# ---------------------------------------------------------------- scaling


def test_exponent_and_image_of_curves():
    rows = [
        {"tiles": count, "seconds": 2e-3 * count**1.5, "memory_mb": 100 + count / 100, "processor": 1.0}
        for count in (100, 1000, 10_000)
    ]
    assert exponent(rows, "tiles", "seconds") == pytest.approx(1.5)
    assert "power 1.50" in describe("tiles", rows)
    root = ElementTree.fromstring(image({"tiles": rows}))
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == 2  # seconds and memory
    points = np.array([point.split(",") for point in lines[1].get("points").split()], float)
    slopes = np.diff(points[:, 1]) / np.diff(points[:, 0])
    assert slopes[0] == pytest.approx(slopes[1], rel=0.05)  # memory is a straight line here


# ---------------------------------------------------------------- the published method


def test_published_detection_gives_our_boxes():
    maps = decoded_maps(np.random.default_rng(3), 128, classes=5)
    maps = [maps[f"trained{level}"] for level in range(3)]
    options = PostprocessOptions(score_threshold=0.001, nms_threshold=0.6, published_overlap=True)
    ours = postprocess(maps, (128, 128), options)
    theirs = np.array(sorted(detect(maps, 128, 128, 0.001, 0.6), key=lambda row: -row[5]))
    assert len(ours) == len(theirs) > 10
    assert ours.classes.tolist() == theirs[:, 0].tolist()
    np.testing.assert_allclose(ours.scores, theirs[:, 5], rtol=1e-6)
    sides = ours.boxes[:, 2:] - ours.boxes[:, :2]
    np.testing.assert_allclose(np.concatenate([ours.boxes[:, :2], sides], 1), theirs[:, 1:5], atol=2e-3)


def test_published_colour_space_is_hsv():
    rgb = np.random.default_rng(0).random((20, 30, 3))
    rgb[0, 0], rgb[0, 1], rgb[0, 2], rgb[0, 3] = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0.5)
    hsv = rgb_to_hsv(rgb)
    np.testing.assert_allclose(hsv[0, :4], [(0, 1, 1), (1 / 3, 1, 1), (2 / 3, 1, 1), (0, 0, 0.5)], atol=1e-12)
    np.testing.assert_allclose(hsv_to_rgb(hsv), rgb, atol=1e-12)


def test_published_augmentation_keeps_boxes_on_their_objects():
    image = np.full((90, 120, 3), 30, np.uint8)
    image[30:60, 40:80] = 220
    boxes = np.array([[40, 30, 80, 60, 3]], np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for seed in range(10):
        planes, placed = augment(image, boxes, np.random.default_rng(seed), 96)
        assert planes.shape == (3, 96, 96) and planes.dtype == np.float32
        for x1, y1, x2, y2, label in placed:
            assert label == 3
            value = (planes[:, int((y1 + y2) / 2), int((x1 + x2) / 2)] * std + mean).max()
            assert value > 0.5  # bright, and brightness changes by 1.5 at most


def test_the_data_path_is_measured_from_files_to_batches(tmp_path, monkeypatch):
    """One process of one thread on small tiles; a program in place of py-spy says 150 of 500 samples."""
    monkeypatch.setattr(data_path, "TILES", 8)
    monkeypatch.setattr(data_path, "SIDE", 300)
    data_path.write_tiles(tmp_path / "set")
    py_spy = tmp_path / "py-spy"
    py_spy.write_text("#!/bin/sh\nfor last; do :; done\nprintf 'a;b 100\\nc 50\\n' > \"$last\"\n")
    py_spy.chmod(0o755)
    found = data_path.measure(tmp_path / "set", 1, 1, 0.5, str(py_spy))
    assert found.rate > 0 and found.processor > 0
    assert found.held == 0.3 and found.lock == pytest.approx(300 / found.rate)
    cells = data_path.line(found).strip("| ").split(" | ")
    assert (
        cells[:2] == ["1", "1"]
        and cells[4] == "30%"
        and float(cells[6]) == pytest.approx(found.rate / 0.3, abs=1)
    )
