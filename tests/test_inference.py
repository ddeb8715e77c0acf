"""inference.py as a user runs it: kinds of input, backends, formats, and images that cannot be done."""

import contextlib
import csv
import json
import os
import pathlib
import subprocess
import sys

import cv2
import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import src
from src.base.errors import UserError
from src.config import load_config
from src.detect.images import list_images
from src.detect.inference import run_inference, scene_options
from src.export.export import export_model
from src.initializer import initialize
from src.weights.carried import carried_options
from src.weights.checkpoint import save_checkpoint
from src.weights.loading import load_network
from src.yolo import build_network
from tests.tiny import OPTIONS, options_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX export of a fresh tiny network whose statistics make it find something, and its checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    network = build_network(load_config(OPTIONS))
    initialize(network, 3)  # biases too, whatever other tests have drawn before
    rng = np.random.default_rng(3)
    for parameter in network.get_parameters():
        if parameter.ndim == 4:
            scale = np.sqrt(1.5 / np.prod(parameter.shape[1:]))
            parameter.set_data(
                type(parameter)(rng.normal(0, scale, parameter.shape).astype(np.float32), name="w")
            )
    save_checkpoint(network, folder / "tiny.ckpt")
    export_model(
        load_config(
            [*OPTIONS, f"--ckpt_file={folder}/tiny.ckpt", f"--file_name={folder}/tiny", "--file_format=ONNX"]
        )
    )
    return folder / "tiny.onnx"


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "more").mkdir(parents=True)
    for name, shape in (
        ("a.png", (90, 70)),
        ("b.jpg", (96, 96)),
        ("more/a.png", (40, 96)),
        ("c.bmp", (64, 64)),
    ):
        cv2.imwrite(str(tmp_path / "in" / name), rng.integers(0, 256, (*shape, 3), np.uint8))
    return tmp_path / "in"


def infer(model, img_path, out, *words):
    config = load_config(
        [
            f"--pretrained={model}",
            f"--img_path={img_path}",
            f"--log_path={out}",
            "--infer_threshold=0.05",
            "--device_target=CPU",
            *words,
        ]
    )
    code = run_inference(config)
    (folder,) = out.iterdir()
    return code, folder


def test_images_go_where_infer_log_says(model, images, tmp_path):
    """As the DOTA version's option; the files of detections stay in the run's folder."""
    code, folder = infer(model, images, tmp_path / "out", f"--infer_log={tmp_path / 'drawn' / 'here'}")
    assert code == 0 and not (folder / "pictures").exists() and len(read_json(folder)) == 4
    drawn = {path.name for path in (tmp_path / "drawn" / "here").iterdir()}
    assert drawn == {"a.jpg", "b.jpg", "a_2.jpg", "c.jpg"}


def read_json(folder):
    return json.loads((folder / "detections.json").read_text())


def test_a_folder_in_any_batch_size_and_every_format(model, images, tmp_path):
    """The same boxes whatever the batch; the three files say the same; each image has its drawing."""
    found = {}
    for batch in (1, 3, 8):
        checkpoint = model.with_suffix(".ckpt")
        code, folder = infer(
            checkpoint, images, tmp_path / f"out{batch}", f"--batch_size={batch}",
            "--result_format=json,csv,coco", *OPTIONS,
        )  # fmt: skip
        assert code == 0
        found[batch] = read_json(folder)
    assert sum(len(entry["detections"]) for entry in found[1]) > 20
    for batch in (3, 8):
        for one, other in zip(found[1], found[batch]):
            assert one["file"] == other["file"] and len(one["detections"]) == len(other["detections"])
            for left, right in zip(one["detections"], other["detections"]):
                assert left["class"] == right["class"]
                assert left["score"] == pytest.approx(right["score"], abs=1e-5)
                assert left["box"] == pytest.approx(right["box"], abs=1e-2)
    assert [(entry["width"], entry["height"]) for entry in found[1]] == [
        (70, 90),
        (96, 96),
        (64, 64),
        (96, 40),
    ]
    assert {path.name for path in (folder / "pictures").iterdir()} == {"a.jpg", "b.jpg", "a_2.jpg", "c.jpg"}
    flat = [(entry["file"], item) for entry in found[8] for item in entry["detections"]]
    with (folder / "detections.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["file"], row["class"]) for row in rows] == [(name, item["class"]) for name, item in flat]
    assert [float(row["x2"]) for row in rows] == [item["box"][2] for _, item in flat]
    coco = json.loads((folder / "detections_coco.json").read_text())
    images = json.loads((folder / "images.json").read_text())
    names = {entry["id"]: entry["file_name"] for entry in images["images"]}
    assert [names[row["image_id"]] for row in coco] == [name for name, _ in flat]
    assert [row["bbox"][0] + row["bbox"][2] for row in coco] == pytest.approx(
        [item["box"][2] for _, item in flat], abs=2e-3
    )


@pytest.mark.parametrize("suffix", [".ckpt", ".onnx", ".mindir"])
def test_load_and_detect_give_what_inference_writes(suffix, model, images, tmp_path):
    """In a program of one's own: the boxes of each file, whole or by tiles, as in detections.json."""
    rng = np.random.default_rng(1)
    cv2.imwrite(str(images / "scene.png"), rng.integers(0, 256, (130, 150, 3), np.uint8))
    file, network = model.with_suffix(suffix), options_of("inference")
    if suffix == ".mindir":
        words = [*OPTIONS, f"--ckpt_file={model.with_suffix('.ckpt')}", f"--file_name={file.with_suffix('')}"]
        export_model(load_config([*words, "--file_format=MINDIR"]))
    code, folder = infer(file, images, tmp_path / "out", *network)
    assert code == 0
    named = dict(word[2:].split("=") for word in network) | {"device_target": "CPU", "infer_threshold": 0.05}
    opened = src.load(file, **named)
    assert opened.class_names == ("ship", "plane")
    entries = read_json(folder)
    assert len(entries) == 5 and sum(len(entry["detections"]) for entry in entries) > 20
    for entry in entries:
        found = opened.detect(entry["file"])
        written = entry["detections"]
        assert len(found) == len(written) and found.boxes.shape == (len(written), 4)
        assert list(found.names) == [item["class"] for item in written]
        assert [opened.class_names[number] for number in found.classes] == list(found.names)
        assert found.scores == pytest.approx([item["score"] for item in written], abs=1e-5)
        assert found.boxes.ravel() == pytest.approx([x for item in written for x in item["box"]], abs=1e-2)


def test_load_and_detect_name_a_mistake(model, images, tmp_path):
    with pytest.raises(UserError, match="no such model file"):
        src.load(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="did you mean infer_threshold"):
        src.load(model, infer_treshold=0.5)
    with pytest.raises(UserError, match=r"--lr acts in train\.py"):
        src.load(model, lr=0.1)
    opened = src.load(model, labels=["ship", "plane"], batch_size=1)
    (images / "broken.png").write_bytes(b"\x89PNG nothing")
    for name in ("broken.png", "absent.png"):
        with pytest.raises(UserError, match=name):
            opened.detect(images / name)


def test_letterbox_without_enlarging_travels_with_checkpoint_and_export(model, tmp_path):
    """Trained with it, a small image is seen as one padded by hand, from the checkpoint and from its export."""
    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config([*OPTIONS, "--letterbox=1", "--letterbox_enlarge=0"])
    network = build_network(config)
    load_network(network, model.with_suffix(".ckpt"))
    trained = tmp_path / "trained.ckpt"
    state = {"options": carried_options(config)}
    save_checkpoint(list(network.get_parameters()), trained, state)
    export_model(
        load_config(
            [
                "--device_target=CPU",
                f"--ckpt_file={trained}",
                f"--file_name={tmp_path}/out",
                "--file_format=ONNX",
            ]
        )
    )
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    padded = np.full((96, 96, 3), 128, np.uint8)
    padded[23:73, 18:78] = image
    for name, content in (("small", image), ("padded", padded)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), content)
    _, folder = infer(model, tmp_path / "padded.png", tmp_path / "by_hand", "--nms_thresh=1")
    expected = []
    for item in read_json(folder)[0]["detections"]:
        x1, y1, x2, y2 = np.clip(np.array(item["box"]) - [18, 23, 18, 23], 0, [60, 50, 60, 50])
        if x2 > x1 and y2 > y1:
            expected.append((item["class"], item["score"], [x1, y1, x2, y2]))
    assert len(expected) > 3
    words = [*OPTIONS, "--letterbox=1", "--letterbox_enlarge=0"]
    sources = [(trained, []), (tmp_path / "out.onnx", []), (model.with_suffix(".ckpt"), words)]
    for number, (source, words) in enumerate(sources):
        _, folder = infer(source, tmp_path / "small.png", tmp_path / f"run{number}", "--nms_thresh=1", *words)
        found = [(item["class"], item["score"], item["box"]) for item in read_json(folder)[0]["detections"]]
        for label, score, box in expected:
            assert any(
                label == other[0]
                and abs(score - other[1]) < 1e-3
                and np.abs(np.subtract(box, other[2])).max() < 0.1
                for other in found
            )
    _, folder = infer(
        trained, tmp_path / "small.png", tmp_path / "enlarged", "--nms_thresh=1", "--letterbox_enlarge=1"
    )
    grown = [item["score"] for item in read_json(folder)[0]["detections"]]
    assert not {round(score, 3) for _, score, _ in expected} <= {round(score, 3) for score in grown}


def test_what_cannot_be_done_is_named_and_the_rest_is_done(model, images, tmp_path, capsys):
    """A text file named .jpg, a cut file, 16 bits; CMYK and a single pixel are images like others."""
    (images / "text.jpg").write_text("hello")
    (images / "cut.jpg").write_bytes((images / "b.jpg").read_bytes()[:-200])
    cv2.imwrite(str(images / "deep.png"), np.full((60, 60, 3), 40000, np.uint16))
    Image.new("CMYK", (50, 40)).save(images / "cmyk.jpg")
    Image.new("RGB", (1, 1)).save(images / "pixel.png")
    code, folder = infer(model, images, tmp_path / "out", "--batch_size=2")
    assert code == 1
    done = {entry["file"].rsplit("/", 1)[1] for entry in read_json(folder)}
    assert done == {"a.png", "b.jpg", "c.bmp", "cmyk.jpg", "pixel.png"}
    failed = (folder / "failed.txt").read_text().split()
    assert sorted(name.rsplit("/", 1)[1] for name in failed) == ["cut.jpg", "deep.png", "text.jpg"]
    output = capsys.readouterr().out
    assert "3 of 9 images could not be done" in output
    for text in ("text.jpg: not an image", "cut.jpg: the image is truncated", "deep.png: uint16 pixels"):
        assert text in output


def test_a_larger_image_is_a_scene(model, tmp_path):
    """300 x 200 with an input of 96: tiled; boxes reach over the whole scene and no further."""
    rng = np.random.default_rng(5)
    cv2.imwrite(str(tmp_path / "scene.png"), rng.integers(0, 256, (200, 300, 3), np.uint8))
    code, folder = infer(model, tmp_path / "scene.png", tmp_path / "out", "--scene_merge=weighted")
    assert code == 0
    (entry,) = read_json(folder)
    boxes = np.array([item["box"] for item in entry["detections"]])
    assert (entry["width"], entry["height"]) == (300, 200) and len(boxes) > 20
    assert boxes.min() >= 0 and (boxes.max(axis=0)[2:] <= (300, 200)).all()
    assert boxes[:, 2].max() > 250 and boxes[:, 3].max() > 150
    assert cv2.imread(str(folder / "pictures" / "scene.jpg")) is not None


def write_map(path, crs="EPSG:32650", corner=(500000, 3500000)):
    """A noisy raster with map coordinates."""
    rasterio = pytest.importorskip("rasterio")
    noise = np.random.default_rng(5).integers(0, 256, (3, 120, 150), np.uint8)
    place = rasterio.transform.from_origin(*corner, 10, 10)
    with rasterio.open(
        path, "w", driver="GTiff", width=150, height=120, count=3, dtype="uint8", crs=crs, transform=place
    ) as raster:
        raster.write(noise)


def test_one_scene_that_fails_takes_no_other_with_it(model, images, tmp_path, capsys):
    """Outside of its projection's domain, a name of 250 letters, a name that is not UTF-8, a decoder's own error."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    write_map(folder / "a.tif")
    write_map(folder / "lost.tif", corner=(1e30, 1e30))
    png = cv2.imencode(".png", cv2.imread(str(images / "a.png")))[1].tobytes()
    (folder / f"{'n' * 246}.png").write_bytes(png)
    name = os.fsdecode(b"sch\xf6n.png")
    (folder / name).write_bytes(png)
    (folder / os.fsdecode(b"kaputt\xff.png")).write_bytes(png[:60])
    words = ("--result_format=json,csv,geojson", "--infer_threshold=0.01")
    code, out = infer(model, folder, tmp_path / "out", *words)
    assert code == 1
    done = {pathlib.Path(entry["file"]).name for entry in read_json(out)}
    assert done >= {"a.tif", f"{'n' * 246}.png", name}
    assert len(list((out / "pictures").iterdir())) == len(done)
    assert (out / "a_wgs84.geojson").is_file() and (out / "lost.geojson").is_file()
    failed = (out / "failed.txt").read_bytes().splitlines()
    assert [line.rsplit(b"/")[-1] for line in failed] == [b"kaputt\xff.png", b"lost.tif"]
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err and "lost.tif" in printed.out


def test_no_two_inputs_share_an_output(model, images, tmp_path):
    """Small and large images, in folders, one named as another's output would be."""
    for name in ("x/s.png", "y/s.png", "y/s_2.png", "z/S.png"):
        side = 200 if name == "y/s.png" else 60
        (images / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(images / name), np.zeros((side, side, 3), np.uint8))
    code, folder = infer(model, images, tmp_path / "out")
    drawn = {path.stem.casefold() for path in (folder / "pictures").iterdir()}
    assert code == 0 and len(drawn) == len(read_json(folder)) == 8


def test_runs_of_the_same_second_have_folders_of_their_own(model, images, tmp_path, monkeypatch):
    import datetime

    class Stopped(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 31, 12)

    monkeypatch.setattr("src.runtime.collectives.datetime", Stopped)
    for _ in range(3):
        with contextlib.suppress(ValueError):  # of two folders, `infer` cannot say which is its own
            infer(model, images / "a.png", tmp_path / "out")
    folders = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert folders == [f"2026-01-31_time_12_00_00{end}" for end in ("", "_2", "_3")]
    assert all((tmp_path / "out" / name / "detections.json").is_file() for name in folders)


def test_inference_py_as_published_and_without_mindspore(model, images, tmp_path):
    """`--img_path --ckpt_path --batch_size`; an ONNX file needs no MindSpore at all."""
    blocked = "import sys, runpy; sys.modules['mindspore'] = None; sys.argv[0] = 'inference.py'; runpy.run_path('inference.py', run_name='__main__')"  # noqa: E501
    words = [
        f"--img_path={images / 'a.png'}",
        f"--ckpt_path={model}",
        "--batch_size=1",
        f"--log_path={tmp_path}/out",
    ]
    done = subprocess.run(
        [sys.executable, "-c", blocked, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "detections in 1 images" in done.stdout
    refused = subprocess.run(
        [sys.executable, "inference.py", *words[:1], "--ckpt_path=/no/model.onnx"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert refused.returncode == 2 and refused.stderr == "error: /no/model.onnx: no such model file\n"


def test_what_img_path_may_be(images, tmp_path):
    names = ["a.png", "b.jpg", "c.bmp", "more/a.png"]
    assert list_images(str(images)) == [images / name for name in names]
    assert list_images(str(images / "*.png")) == [images / "a.png"]
    assert list_images(str(images / "**" / "*.png")) == [images / "a.png", images / "more/a.png"]
    (images / "list.txt").write_text("# mine\nmore/a.png\n\nb.jpg\n")
    assert list_images(str(images / "list.txt")) == [images / "more/a.png", images / "b.jpg"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    for path, named in (
        ("", "img_path: not set"),
        (tmp_path / "empty", "no images"),
        (tmp_path / "empty.txt", "names no images"),
        (tmp_path / "x*.png", "as a pattern it finds nothing"),
    ):
        with pytest.raises(UserError, match=named):
            list_images(str(path))


@pytest.mark.parametrize(
    "words,named",
    [
        (["--scene_stretch=98,2"], "scene_stretch: '98,2' must be two percentiles"),
        (["--scene_stretch=2"], "scene_stretch: '2' must be"),
        (["--scene_bands=red"], "scene_bands: 'red' must be numbers"),
    ],
)
def test_scene_options_that_are_refused(words, named):
    with pytest.raises(UserError, match=named):
        scene_options(load_config(words))


def test_an_unknown_format_is_refused_before_the_work(model, images, tmp_path):
    with pytest.raises(UserError, match="result_format: xml is not one of json, csv, coco, geojson"):
        infer(model, images, tmp_path / "out", "--result_format=xml")


def test_a_disk_that_takes_no_more(model, images, tmp_path):
    """Files over 4 kB cannot be written, as on a full disk: named one by one, the rest is done."""
    large = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    cv2.imwrite(str(images / "large.png"), large)
    small = np.zeros((16, 16, 3), np.uint8)
    cv2.imwrite(str(images / "small.png"), small)
    words = f"--img_path={images} --model={model} --log_path={tmp_path}/out --infer_threshold=0.9"
    limited = f"ulimit -f 4; exec {sys.executable} inference.py {words}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    written = {path.name for path in (folder / "pictures").iterdir()}
    assert "small.jpg" in written and "large.jpg" not in written
    for path in (folder / "pictures").iterdir():
        assert cv2.imread(str(path)) is not None, path
    assert "large.jpg: cannot be written" in done.stdout
    assert str(images / "large.png") in (folder / "failed.txt").read_text()
