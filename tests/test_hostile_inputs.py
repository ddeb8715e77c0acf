"""Attacks and damaged files: one clear line or success, nothing run, nothing written elsewhere, no key told.

What the fuzzers found is kept here as small cases (`benchmarks/fuzz.py`, `benchmarks/fuzz_coverage.py`).
`docs/security.md` lists which test stands for which attack.
"""

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib

import mindspore as ms
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.base.errors import UserError, reports_mistakes
from src.base.yaml_text import load_yaml
from src.config import load_config
from src.datasets.dota_labels import read_labels
from src.datasets.formats.coco_writer import labels_option
from src.datasets.formats.labelled import ReadOptions
from src.datasets.formats.yolo_txt import class_names, read_yolo
from src.detect.backends import open_model
from src.detect.settings import ModelSettings
from src.evaluation.dota_submission import find_places
from src.imaging.image_io import read_rgb
from src.remote.archive import unpack_once
from src.remote.download import without_signature
from src.report.history import read_history
from src.runtime.device import Runtime
from src.train.run import start_run
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.weights.loading import load_network
from src.yolo import build_network
from src.yolo_dataset import load_detection_set
from tests import ROOT
from tests.tiny import tiny_config, write_tiles

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
TAGS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/module:os",
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)


# ---------------------------------------------------------------- YAML


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_make_no_objects(tmp_path, tag):
    mark = tmp_path / "mark"
    value = tag.format(mark=mark)
    (tmp_path / "o.yaml").write_text(f"lr: {value}\n")
    (tmp_path / "data.yaml").write_text(f"names: {value}\n")
    for attempt in (
        lambda: load_config([f"--config_path={tmp_path / 'o.yaml'}"]),
        lambda: load_config([f"--labels=[{value}]"]),
        lambda: read_yolo(tmp_path, ReadOptions()),
        lambda: ModelSettings.from_yaml(f"class_names: {value}", "m.yaml"),
    ):
        with pytest.raises(UserError):
            attempt()
    assert not mark.exists()


@pytest.mark.parametrize("key", ["lr", "labels", "mosaic", "data_dir", "anchor_scales", "unknown"])
def test_a_yaml_of_aliases_does_not_grow(tmp_path, key):
    """Ten lines that stand for 9^9 values: a naive error message would write them out."""
    (tmp_path / "o.yaml").write_text(f"{BOMB}{key}: *i\n")
    tracemalloc.start()
    with pytest.raises(UserError, match="aliases"):
        load_config([f"--config_path={tmp_path / 'o.yaml'}"])
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99", "a: !!bool maybe", "a: !!int ''", "a: !!float x", "a: !!timestamp x", "a: &b [*b]",
        "? [a]\n: 1", "a: " + "[" * 2000, "a: " + "9" * 5000, "<<: 1", "a: !!binary 'é'", "\x00", "{" * 2000,
        "a: !!set [x]", "a: !!omap {x: 1}", "x" * 300_000,
    ],
)  # fmt: skip
def test_yaml_that_is_none_is_one_kind_of_error(text):
    with pytest.raises(ValueError) as caught:
        load_yaml(text)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["lr", "labels", "mosaic", "multi_scale", "lr_epochs", "training_shape", "nonsense\n"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        ),
        max_size=3,
    )
)
def test_options_of_any_kind_are_taken_or_named(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("options") / "o.yaml"
    path.write_text(json.dumps(document))
    try:
        config = load_config([f"--config_path={path}"])
    except UserError as error:
        assert str(path) in str(error) or any(key.strip() in str(error) for key in document)
        assert len(str(error).splitlines()) == 1
    else:
        assert config.lr > 0 and len(set(config.labels)) == config.num_classes


# ---------------------------------------------------------------- annotations


def write_set(folder, **changes):
    document = {
        "images": [{"id": 1, "file_name": "1.png", "width": 60, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8]}],
        "categories": [{"id": 1, "name": "ship"}],
        **changes,
    }
    (folder / "1.png").touch()
    (folder / "a.json").write_text(json.dumps(document))
    return folder, folder / "a.json"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../../b.png", "..", "", "a\x00.png", ["1.png"], None]
)
def test_a_file_name_cannot_leave_the_folder_of_images(tmp_path, name):
    folder, ann_file = write_set(tmp_path, images=[{"id": 1, "file_name": name, "width": 60, "height": 40}])
    with pytest.raises(UserError) as caught:
        load_detection_set(folder, ann_file, ("ship",))
    assert len(str(caught.value).splitlines()) == 1


ODD = st.sampled_from([0, -1, 5, 2**40, 1e308, float("nan"), float("inf"), 0.5, "0", None, True, [1], {}, ""])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scene=st.sampled_from(["P1", 7, None, ""]),
    offset=st.lists(ODD, max_size=3) | ODD,
    size=st.lists(ODD, max_size=3),
)
def test_places_of_tiles_are_whole_or_refused(tmp_path, scene, offset, size):
    entry = {"id": 1, "file_name": "1.png", "width": 60, "height": 40}
    folder, ann_file = write_set(
        tmp_path, images=[{**entry, "scene": scene, "offset": offset, "scene_size": size}]
    )
    dataset = load_detection_set(folder, ann_file, ("ship",))
    try:
        places, sizes = find_places(dataset)
    except UserError as error:
        assert "scene_size" in str(error)
    else:
        (place,) = places.values()
        assert 0 <= place.x < sizes[place.scene][0] and type(place.y) is int


def test_places_of_tiles_in_a_file_with_a_byte_order_mark(tmp_path):
    folder, ann_file = write_set(tmp_path)
    ann_file.write_bytes(b"\xef\xbb\xbf" + ann_file.read_bytes())
    assert find_places(load_detection_set(folder, ann_file, ("ship",)))[1] == {"1": (60, 40)}


@pytest.mark.parametrize(
    "line",
    [
        "1e308 0 -1e308 0 0 9 9 9 ship 0",
        "nan 0 1 1 2 2 3 3 ship 0",
        "1 2 3 4 ship\x1b[2J 0",
        "1 2 3 4 " + "[" * 3000,
    ],
)
def test_dota_lines_that_overflow_or_flood_the_terminal(tmp_path, line):
    (tmp_path / "P1.txt").write_text(line)
    with pytest.raises(UserError, match=r"P1\.txt:1") as caught:
        read_labels(tmp_path / "P1.txt", ("ship",))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1300


def test_names_in_a_data_yaml_that_no_file_can_have(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text(f"train: {'a' * 5000}\nval: images\nnames: [ship]\n")
    with pytest.raises(UserError, match="correct the path"):
        read_yolo(tmp_path, ReadOptions())


def test_class_names_of_several_lines_become_one(tmp_path):
    document = {"names": ["ship\n--evil", "plane"]}
    assert class_names(tmp_path, ReadOptions(), document, tmp_path / "data.yaml") == ("ship --evil", "plane")


def test_messages_are_one_printable_line():
    error = UserError("a\nb\x1b[31m" + "x" * 5000)
    assert str(error).isprintable() and len(str(error)) < 1300 and str(error).startswith("a\\nb\\x1b[31m")


@pytest.mark.parametrize("text", ["epoch,step\n1,2\n", "x" * 5000, "\x00", '"' * 999, ",".join("a" * 2000)])
def test_a_table_of_epochs_that_is_none(tmp_path, text):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(UserError, match="not a table of epochs") as caught:
        read_history(tmp_path / "results.csv")
    assert len(str(caught.value)) < 400


# ---------------------------------------------------------------- images


def png(width, height, *chunks):
    def chunk(kind, data, length=None):
        body = kind + data
        return (
            struct.pack(">I", len(data) if length is None else length)
            + body
            + struct.pack(">I", zlib.crc32(body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*each) for each in chunks)
        + chunk(b"IEND", b"")
    )


IMAGES = """
import resource, sys, time
from pathlib import Path
from src.base.errors import UserError
from src.imaging.image_io import read_rgb
read_rgb(Path(sys.argv[1]))
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    started = time.process_time()
    try:
        read_rgb(Path(path))
        print("read", path)
    except UserError as error:
        print("refused", error)
    assert time.process_time() - started < 5
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) >> 10, "MB")
"""


def test_images_that_are_bombs_take_no_memory(tmp_path):
    """A header of 400 million pixels, rows that unpack a thousandfold, a chunk that claims 2 GB."""
    side = 19_000
    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(200)) + rows.flush()
    files = {
        "good.png": png(2, 2, (b"IDAT", zlib.compress(bytes(14)))),
        "rows.png": png(side, side, (b"IDAT", packed)),
        "header.png": png(60_000, 60_000, (b"IDAT", b"")),
        "chunk.png": png(2, 2, (b"IDAT", zlib.compress(bytes(14)), 0x7FFFFFF0)),
        "header.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 19_000, 19_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "header.jpg": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\x00\xff\x00\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01"
        b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\x00\xff\xd9",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    words = [sys.executable, "-c", IMAGES, *(str(tmp_path / name) for name in files)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["refused"] * 5, done.stdout
    assert int(lines[-1].split()[0]) < 100


def test_a_large_image_of_real_content_is_no_bomb(tmp_path):
    from src.imaging import image_io

    path = tmp_path / "large.png"
    path.write_bytes(png(2, 2, (b"IDAT", zlib.compress(bytes(14)))))
    assert read_rgb(path).shape == (2, 2, 3)
    assert image_io.MAX_PIXELS > image_io._LARGE_PIXELS  # a 20,000 x 20,000 scene of 5 MB and more is read


@pytest.mark.parametrize(
    "content",
    [
        b'<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        b"<SourceFilename>%s</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>",
        b"<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/%s</ServerUrl></Service></GDAL_WMS>",
    ],
)
def test_a_tif_that_is_a_list_of_other_files_is_none(tmp_path, content):
    rasterio = pytest.importorskip("rasterio")
    from src.imaging.raster import open_raster

    secret = tmp_path / "secret.tif"
    with rasterio.open(secret, "w", "GTiff", 2, 2, 1, dtype="uint8") as sink:
        sink.write(np.full((1, 2, 2), 77, np.uint8))
    (tmp_path / "scene.tif").write_bytes(content.replace(b"%s", str(secret).encode()))
    with pytest.raises(UserError, match=r"scene\.tif: not a raster"), open_raster(tmp_path / "scene.tif"):
        pass


@pytest.mark.parametrize(
    "source", ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1/a.tif", "WMS:http://x"]
)
def test_a_vrt_names_files_of_this_host_alone(tmp_path, source):
    rasterio = pytest.importorskip("rasterio")
    from src.imaging.raster import open_raster

    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 2, 2, 1, dtype="uint8") as sink:
        sink.write(np.full((1, 2, 2), 77, np.uint8))
    text = (
        '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>'
    )
    (tmp_path / "s.vrt").write_text(text.format(source))
    with pytest.raises(UserError, match="plain files of this host"), open_raster(tmp_path / "s.vrt"):
        pass
    (tmp_path / "s.vrt").write_text(text.format("a.tif"))
    with open_raster(tmp_path / "s.vrt") as raster:
        assert (raster.read(0, 0, 2, 2) == 77).all()


# ---------------------------------------------------------------- archives, weights and models


class Code:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_pickles_under_other_names_are_not_run(tmp_path):
    mark = tmp_path / "mark"
    data = pickle.dumps(Code(mark))
    for name in ("net.ckpt", "net.mindir", "net.onnx"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            open_model(load_config([f"--pretrained={tmp_path / name}", "--device_target=CPU"]))
    np.save(tmp_path / "1.npy", np.array([Code(mark)], object), allow_pickle=True)
    for name in ("1.png", "1.tif"):
        (tmp_path / "1.npy").rename(tmp_path / name)
        with pytest.raises(UserError, match=name):
            read_rgb(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "1.npy")
    assert not mark.exists()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("set"), tmp_path_factory.mktemp("out"))
    path = tmp_path_factory.mktemp("weights") / "net.ckpt"
    network = build_network(config)
    save_checkpoint(network, path, {"step": 3, "steps_per_epoch": 3, "best_map": -1.0, "best_epoch": 0})
    return config, network, path


def test_a_changed_byte_in_a_checkpoint_is_found(checkpoint, tmp_path, capfd):
    """Its values have no names in the way that would tell: without a checksum it would load, and lie."""
    _, _, path = checkpoint
    good = path.read_bytes()
    for place in np.linspace(30, len(good) - 30, 40).astype(int).tolist():
        (tmp_path / "net.ckpt").write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(UserError, match="not a readable MindSpore checkpoint"):
            read_checkpoint(tmp_path / "net.ckpt")
    assert capfd.readouterr().err == ""  # MindSpore's own log says nothing beside


def test_a_published_checkpoint_with_values_that_are_not_finite_is_refused(checkpoint, tmp_path):
    _, network, path = checkpoint
    values = read_checkpoint(path)[0]
    values["feature_map.conv1.0.weight"].flat[3] = np.nan
    parameters = [{"name": name, "data": ms.Tensor(value)} for name, value in values.items()]
    ms.save_checkpoint(parameters, str(tmp_path / "nan.ckpt"))
    with pytest.raises(UserError, match=r"feature_map\.conv1\.0\.weight holds values that are not finite"):
        load_network(network, tmp_path / "nan.ckpt")


@pytest.mark.parametrize(
    "state",
    ["[]", "3", "null", "{", '{"step": "3"}', '{"step": -1}', '{"step": 1e99}', '{"steps_per_epoch": 0}', "[" * 5000,
     '{"best_map": NaN}', '{"epoch_sums": [1]}', '{"epoch_sums": 1}', '{"options": []}', '{"step": true}'],
)  # fmt: skip
def test_a_training_state_that_is_none(checkpoint, tmp_path, state):
    value = [{"name": "a", "data": ms.Tensor(np.ones(2, np.float32))}]
    ms.save_checkpoint(value, str(tmp_path / "a.ckpt"), append_dict={"train_state": state})
    with pytest.raises(UserError, match="its training state is damaged"):
        read_checkpoint(tmp_path / "a.ckpt")


def test_onnx_metadata_that_is_no_text(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"yolov4_settings": "XXXX"})
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString().replace(b"XXXX", b"\xff\xfe\xfd\xfc"))
    with pytest.raises(UserError, match=r"net\.onnx"):
        open_model(load_config([f"--pretrained={tmp_path / 'net.onnx'}"]))


@pytest.mark.parametrize(
    "key, value",
    [("input_hw", [".inf", 96]), ("batch_size", ".inf"), ("anchors", "[[1]]"), ("image_std", [0, 0, 0]),
     ("class_names", "[]"), ("scale_x_y", [".nan", 1, 1]), ("input_hw", [-32, -32])],
)  # fmt: skip
def test_settings_of_a_model_that_make_no_network(tmp_path, key, value):
    config = tiny_config(tmp_path, tmp_path)
    lines = ModelSettings.from_config(config).to_yaml().splitlines()
    text = "\n".join(
        line for line in lines if not re.match(rf"{key}:|- |  - ", line) or not line.startswith(key)
    )
    document = {**load_yaml("\n".join(lines)), key: load_yaml(f"x: {value}".replace("'", ""))["x"]}
    assert text
    with pytest.raises(UserError):
        ModelSettings.from_yaml(json.dumps(document), "m.yaml").laid_over(load_config([]))


@pytest.mark.parametrize("kind", ["quantised", "sparse", "complex"])
def test_pytorch_tensors_that_are_no_plain_numbers(tmp_path, kind):
    torch = pytest.importorskip("torch")
    from src.weights.torch_state import read_state

    value = {
        "quantised": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "sparse": lambda: torch.ones(2, 2).to_sparse(),
        "complex": lambda: torch.ones(2, dtype=torch.complex64),
    }[kind]()
    torch.save({"a": value}, tmp_path / "a.pth")
    try:
        assert all(value.dtype == np.float32 for value in read_state(tmp_path / "a.pth").values())
    except UserError as error:
        assert "a.pth" in str(error)


# ---------------------------------------------------------------- shells


@pytest.mark.parametrize(
    "word",
    ["; touch mark", "$(touch mark)", "`touch mark`", "a && touch mark", "| touch mark", "\ntouch mark"],
)
@pytest.mark.parametrize(
    "script", ["run_standalone_train.sh", "run_eval.sh", "run_test.sh", "run_infer_310.sh"]
)
def test_words_of_a_script_are_not_run(tmp_path, script, word):
    words = ["bash", str(ROOT / "scripts" / script), word, word, word, word]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert not list(tmp_path.rglob("mark")) and not (ROOT / "mark").exists()


@pytest.mark.parametrize(
    "names",
    [
        ("a'; touch mark; '", "b"),
        ('"$(touch mark)"', "`touch mark`"),
        ("x\\", "-y"),
        ("a,b", "[c]"),
        ("#", "null"),
    ],
)
def test_the_line_to_copy_is_safe_in_a_shell_and_means_the_classes(tmp_path, names):
    """`convert_to_coco` prints a line to copy; what a label file calls a class must not run in it."""
    line = labels_option(names)
    show = f"{sys.executable} -c 'import sys, json; print(json.dumps(sys.argv[1:]))' {line}"
    done = subprocess.run(["bash", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True)
    (word,) = json.loads(done.stdout)
    assert tuple(load_config([word]).labels) == names
    assert not (tmp_path / "mark").exists()


# ---------------------------------------------------------------- secrets


def test_keys_and_signatures_of_a_run_are_in_none_of_its_files(tmp_path, checkpoint, monkeypatch, capfd):
    """AK and SK of the environment and the signature of an address, in the log, config.yaml, report, checkpoint."""
    from tests.file_server import Behaviour, file_server

    for name in ("AWS_SECRET_ACCESS_KEY", "OBS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    _, _, path = checkpoint
    tiles = write_tiles(tmp_path / "tiles")
    with file_server(Behaviour(path.read_bytes())) as url:
        words = [
            f"--pretrained_checkpoint={url}/net.ckpt?Signature={SECRET}",
            f"--download_path={tmp_path / 'cache'}",
        ]
        started = start_run(tiny_config(tiles, tmp_path / "out", *words), Runtime())
    started.save()
    shown = capfd.readouterr()
    assert "download" in shown.out and SECRET not in shown.out + shown.err
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {"config.yaml", "report.html"} <= {path.name for path in files} and len(files) >= 4
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
    kept = load_config([f"--config_path={started.folder.path / 'config.yaml'}"]).pretrained_checkpoint
    assert kept == f"{url}/net.ckpt"


def test_addresses_without_their_signature():
    value = "https://AK:SK@host/a/net.ckpt?X-Amz-Signature=ab#sha256=" + "0" * 64
    assert without_signature(value) == "https://host/a/net.ckpt#sha256=" + "0" * 64
    assert without_signature("a/b?c.ckpt") == "a/b?c.ckpt" and without_signature(3) == 3


# ---------------------------------------------------------------- the fuzzer, in short


def test_three_hundred_hostile_files(tmp_path):
    """`python -m benchmarks.fuzz` feeds 5,000, these and MindSpore's formats; here the quick ones."""
    formats = (
        "coco,check_dataset,dota,voc,yolo,data_yaml,settings,rank_table,results,png,jpeg,bmp,tiff,gif,zip"
    )
    words = [
        sys.executable,
        "-m",
        "benchmarks.fuzz",
        "--count=300",
        f"--formats={formats}",
        f"--keep={tmp_path}",
        "--seed=7",
    ]
    started = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    inputs, read, refused, failed = map(
        int, re.search(r"^together\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)", done.stdout, re.M).groups()
    )
    assert inputs >= 290 and failed == 0 and read + refused == inputs and min(read, refused) > 20
    assert time.monotonic() - started < 300


def test_an_unforeseen_full_disk_is_a_line_too(capsys):
    @reports_mistakes
    def program():
        raise OSError(28, "No space left on device", "/data/out")

    assert program() == 2
    assert (
        capsys.readouterr().err
        == "error: /data/out: cannot be written (No space left on device); free disk space there\n"
    )


def test_zip_entries_with_terminal_codes_are_shown_as_text(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("../\x1b[2J\nx", b"")
    with pytest.raises(UserError) as caught:
        unpack_once(tmp_path / "a.zip", tmp_path / "out")
    assert str(caught.value).isprintable()


def test_every_test_that_the_table_of_attacks_names_is_there():
    table = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    names = set(re.findall(r"\b(test_\w+)\b(?!\.py)", table))
    assert len(names) > 20
    assert {name for name in names if f"def {name}(" not in written} == set()
