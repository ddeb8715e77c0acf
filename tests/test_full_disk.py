"""Every writer of files on a disk that is full: one message with a remedy, nothing half-written, nothing lost."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest

from src.base.errors import UserError, reports_mistakes
from src.datasets.dota_labels import DotaObject, write_labels
from src.datasets.dota_split import SplitOptions, split_set
from src.datasets.formats.coco_writer import WriteOptions, write_coco
from src.datasets.formats.labelled import LabelledImage, LabelledObject, LabelledSet
from src.detect.detections import DETECTION, write_coco_json
from src.detect.postprocess import Detections
from src.detect.results import ImageDetections, write_results
from src.detect.settings import ModelSettings, write_settings
from src.evaluation.dota_submission import write_submission
from src.export.export import export_model
from src.imaging.image_io import write_image
from src.logger import get_logger
from src.remote.archive import unpack_once
from src.remote.download import local_file
from src.remote.object_storage import open_store
from src.remote.results_upload import upload
from src.report.events import EventFiles
from src.report.history import EpochRow, write_history
from src.report.html_report import Report
from src.runtime.device import Runtime
from src.runtime.rank_table import Device, RankTable, Server, write_rank_table
from src.train.run import start_run
from src.train.run_folder import last_checkpoints
from src.weights.checkpoint import read_checkpoint, save_checkpoint
from src.yolo import build_network
from src.yolo_dataset import load_detection_set
from tests import ROOT
from tests.file_server import Behaviour, file_server
from tests.full_disk import PAGE, small_disk
from tests.tiny import NAMES, OPTIONS, tiny_config, train

NOISE = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)  # compresses to no less


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with small_disk(tmp_path_factory.mktemp("disk") / "small") as found:
        if found is None:
            pytest.skip("a small file system can be mounted by root alone")
        yield found


def without_locks(files):
    """Lock files stay by design: only a lock held on them means anything."""
    return {name: content for name, content in files.items() if not name.endswith(".lock")}


def many(count=20_000):
    """Detections whose files take megabytes."""
    rng = np.random.default_rng(0)
    boxes = rng.random((count, 4), np.float32) * 300
    return Detections(boxes, rng.random(count, np.float32), np.zeros(count, np.int32))


def table(count=20_000):
    rows = np.zeros(count, DETECTION)
    rows["bbox"], rows["score"] = many(count).boxes, many(count).scores
    return rows


def coco_json(folder, sources):
    write_coco_json(folder / "predict.json", table())


def detections(name):
    def write(folder, sources):
        write_results(folder, [ImageDetections(Path("a.png"), 300, 300, many())], NAMES, [name])

    return write


def results_csv(folder, sources):
    write_history(folder / "results.csv", [EpochRow(n, n, *[1.0] * 9) for n in range(3000)])


def report_html(folder, sources):
    dataset = load_detection_set(sources / "set/train", sources / "set/annotations/train.json", NAMES)
    report = Report(folder, "Training", [("training", dataset)], 3000)
    report.write([EpochRow(n, n, *[1.0] * 9) for n in range(1, 3000)])


def checkpoint(folder, sources):
    values = np.zeros(300_000, np.float32)
    save_checkpoint([ms.Parameter(ms.Tensor(values), name="a")], folder / "0-1_1.ckpt", {"step": 1})


def settings_yaml(folder, sources):
    config = tiny_config(sources / "set", folder)
    names = tuple(f"class-{number}" for number in range(5000))
    write_settings(folder / "net.mindir", ModelSettings.from_config(config.replace(labels=list(names))))


def image(folder, sources):
    write_image(folder / "tile.png", NOISE)


def labels(folder, sources):
    write_labels(folder / "scene.txt", [DotaObject(np.zeros((4, 2)), "ship", False)] * 5000)


def split(folder, sources):
    split_set(sources / "dota", folder / "set", "train", SplitOptions(("ship",), tile_size=200))


def converted(folder, sources):
    """The annotations are what does not fit."""
    objects = [LabelledObject("ship", (n / 99, 1, n / 99 + 9, 9), False, "a:1") for n in range(4000)]
    found = LabelledImage(sources / "dota/images/scene.png", 400, 400, objects)
    write_coco(LabelledSet({"train": [found], "val": []}, ("ship",)), folder / "set", WriteOptions())


def converted_images(folder, sources):
    """The copies of the images are what does not fit."""
    objects = [LabelledObject("ship", (1, 1, 9, 9), False, "a:1")]
    found = LabelledImage(sources / "dota/images/scene.png", 400, 400, objects)
    options = WriteOptions(placing="copy")
    write_coco(LabelledSet({"train": [found], "val": []}, ("ship",)), folder / "set", options)


def submission(folder, sources):
    write_submission({"P0001": many()}, ("ship",), folder / "Task2.zip")


def archive(folder, sources):
    """`_check_size` knows of the disk; here the space goes while it unpacks."""
    import src.remote.archive as module

    spare, module.SPARE_BYTES = module.SPARE_BYTES, -(1 << 30)
    try:
        unpack_once(sources / "set.zip", folder / "set")
    finally:
        module.SPARE_BYTES = spare


def rank_table(folder, sources):
    devices = tuple(Device(n, f"10.0.{n // 250}.{n % 250}", n) for n in range(2000))
    write_rank_table(RankTable((Server("10.0.0.1", devices),)), folder / "table.json")


def bucket_folder(folder, sources):
    upload(open_store(str(folder / "out"), "train_url"), sources / "dota")


def download(folder, sources):
    with file_server(Behaviour(NOISE.tobytes(), chunked=True)) as url:
        local_file(f"{url}/net.ckpt", "pretrained", str(folder))


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiles):
    """What the writers read, on another disk."""
    root = tmp_path_factory.mktemp("sources")
    (root / "set").symlink_to(tiles)
    for name in ("images", "labelTxt"):
        (root / "dota" / name).mkdir(parents=True)
    cv2.imwrite(str(root / "dota/images/scene.png"), NOISE)
    (root / "dota/labelTxt/scene.txt").write_text("10 10 60 10 60 60 10 60 ship 0\n")
    with zipfile.ZipFile(root / "set.zip", "w") as packed:
        for number in range(5):
            packed.writestr(f"train/{number}.png", NOISE.tobytes())
    return root


@pytest.fixture(autouse=True)
def no_earlier_log(monkeypatch):
    """Standard error has the error line alone, whichever tests have set up a log in this process before."""
    monkeypatch.setattr(get_logger(), "handlers", [])


WRITERS = [
    coco_json, detections("json"), detections("csv"), detections("coco"), results_csv, report_html, checkpoint,
    settings_yaml, image, labels, split, converted, converted_images, submission, archive, rank_table,
    download,
]  # fmt: skip


@pytest.mark.parametrize("free", [0, PAGE, 10 * PAGE])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__qualname__.split(".")[0])
def test_a_full_disk_costs_one_line_and_nothing_that_was_there(disk, sources, capfd, write, free):
    disk.empty()
    folder = disk.root / "work"
    folder.mkdir(exist_ok=True)
    (folder / "kept.txt").write_text("kept")
    before = disk.files()
    disk.leave(free)
    wrapped = reports_mistakes(lambda: write(folder, sources))
    assert wrapped() == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and str(disk.root) in line and "free" in line, line
    assert without_locks(disk.files()) == without_locks(before)  # no piece, no temporary file
    disk.empty()
    write(folder, sources)  # and with space it goes through
    for name in set(disk.files()) - set(before):
        (disk.root / name).unlink()


@pytest.mark.parametrize("write", [checkpoint, results_csv, coco_json, report_html])
def test_an_earlier_file_of_that_name_stays(disk, sources, write):
    disk.empty()
    folder = disk.root / "again"
    folder.mkdir(exist_ok=True)
    write(folder, sources)
    before = disk.files()
    disk.leave(2 * PAGE)
    with pytest.raises(UserError, match="free disk space"):
        write(folder, sources)
    assert disk.files() == before


@pytest.mark.parametrize("kind", ["MINDIR", "ONNX"])
def test_an_export_on_a_full_disk(disk, tiles, tmp_path, kind, capfd):
    config = tiny_config(tiles, tmp_path)
    save_checkpoint(build_network(config), tmp_path / "net.ckpt")
    folder = disk.root / f"export-{kind}"
    folder.mkdir()
    words = (f"--file_format={kind}", f"--ckpt_file={tmp_path / 'net.ckpt'}", f"--file_name={folder / 'net'}")
    config = tiny_config(tiles, tmp_path, *words)
    ending = kind.lower()
    disk.leave(20 * PAGE)
    with pytest.raises(UserError, match=f"net.{ending}.*free disk space"):
        export_model(config)
    assert list(folder.iterdir()) == []
    disk.empty()
    export_model(config)
    assert sorted(path.name for path in folder.iterdir()) == [f"net.{ending}", f"net.{ending}.yaml"]


def test_no_room_for_the_name_of_a_file(tmp_path, capfd, sources, monkeypatch):
    """Where a folder or an empty file is one too many (inodes), the line names it too."""
    monkeypatch.setattr("src.remote.results_upload.UPLOAD_WAITS", ())
    with small_disk(tmp_path / "small", "1m,nr_inodes=3") as disk:
        if disk is None:
            pytest.skip("a small file system can be mounted by root alone")
        (disk.root / "a").touch()
        (disk.root / "b").touch()
        for write in (checkpoint, split, converted, archive, bucket_folder, download):
            assert reports_mistakes(lambda write=write: write(disk.root / "new", sources))() == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert line.startswith("error: ") and str(disk.root / "new") in line, line
        with pytest.raises(UserError, match="new"):
            start_run(tiny_config(sources / "set", disk.root / "new"), Runtime())
        assert sorted(disk.files()) == ["a", "b"]


def test_a_bucket_that_is_a_folder_on_a_full_disk(disk, sources, monkeypatch):
    """`train_url` may be one; what did not fit leaves no piece behind."""
    monkeypatch.setattr("src.remote.results_upload.UPLOAD_WAITS", ())
    disk.empty()
    disk.leave(10 * PAGE)
    with pytest.raises(UserError, match=r"train_url: .*No space left on device"):
        bucket_folder(disk.root / "bucket", sources)
    assert not any("scene.png" in name for name in disk.files())


def test_a_training_whose_disk_fills_up_keeps_its_last_checkpoint(disk, compile_cache, tiles, tmp_path):
    """The real program: the line, the exit code, and a run that goes on from there."""
    words = ("--ckpt_interval=1", "--tensorboard=1")
    out = disk.root / "runs"
    places = (f"--data_dir={tiles}", f"--ckpt_path={out}", f"--compile_cache={compile_cache}")
    network = build_network(tiny_config(tiles, out))
    size = sum(2 * parameter.nbytes for parameter in network.get_parameters())  # and the velocities
    disk.empty()
    disk.leave(3 * size)  # two checkpoints, and not a third
    stopped = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *OPTIONS, *words, *places],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert stopped.returncode == 2, stopped.stdout[-2000:] + stopped.stderr[-2000:]
    (line,) = (line for line in stopped.stderr.splitlines() if not line.startswith("warning: "))
    assert line.startswith(f"error: {out}") and "free disk space there" in line, stopped.stderr
    assert not [name for name in disk.files() if ".writing" in name or name.endswith(".tmp")]
    last = last_checkpoints("auto", out)[0]
    assert read_checkpoint(last)[1]["step"] == int(last.stem.rsplit("_", 1)[1]) >= 2
    disk.empty()
    step = int(last.stem.rsplit("_", 1)[1])
    _, log = train(compile_cache, tiles, out, *words, "--resume=auto", "--max_steps=4")
    assert re.findall(r"iter\[(\d+)\]", log) == [str(number) for number in range(step, 4)]
    assert read_checkpoint(last_checkpoints("auto", out)[0])[1]["step"] == 4


def test_log_and_event_files_on_a_full_disk_do_not_end_a_run(disk, capfd):
    from src.logger import setup_logger

    disk.empty()
    folder = disk.root / "log"
    logger = setup_logger(folder)
    events = EventFiles(folder / "events")
    events.add(1, {"loss": 1.0})
    disk.leave(0)
    for step in range(2, 600):
        logger.info("%s", "x" * 100)
        events.add(step, {f"loss/{number}": 1.0 for number in range(50)})
    events.close()
    found = capfd.readouterr()
    (line,) = found.err.splitlines()
    assert line.startswith(f"warning: {folder}") and "free disk space" in line
    (warning,) = [line for line in found.out.splitlines() if "WARNING" in line]
    assert "event files" in warning and "free disk space" in warning
    setup_logger()
