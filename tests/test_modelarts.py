"""ModelArts jobs: folders standing for buckets, a real S3 server, processes of one host, failing runs."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import boto3
import pytest
import yaml
from moto.server import ThreadedMotoServer

from src.base.errors import UserError
from src.config import load_config
from src.remote import modelarts, object_storage, results_upload
from src.remote.modelarts import modelarts_session
from src.remote.pace import Pace
from tests import ROOT
from tests.tiny import OPTIONS, options_of, write_tiles

KEY, SECRET = "AKIATESTKEYOFNOBODY", "s3cr3t/OfNobody+0123456789"
NAMES = [*object_storage.ENDPOINTS, *object_storage.TOKENS, *sum(object_storage.KEY_PAIRS, ())]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [*NAMES, "AWS_PROFILE", "RANK_ID", "MS_ROLE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(results_upload, "UPLOAD_WAITS", (0.01, 0.01))
    yield
    sys.modules.pop("moxing", None)  # the stand-in of one test


def job(root: Path, *words: str):
    """Options of a job whose local folders lie below `root`/cache."""
    cache = root / "cache"
    return load_config(
        ["--enable_modelarts=1", f"--data_path={cache}/data", f"--output_path={cache}/train",
         f"--load_path={cache}/load", *words]
    )  # fmt: skip


@pytest.fixture
def buckets(tmp_path):
    """Folders standing for buckets: data with a zip, checkpoints, results."""
    data = tmp_path / "bucket" / "data"
    data.mkdir(parents=True)
    with zipfile.ZipFile(data / "coco.zip", "w") as opened:
        opened.writestr("coco/annotations/train.json", "{}")
    (data / "notes").mkdir()
    (data / "notes" / "a.txt").write_text("first")
    (data / "notes" / "b.txt").write_text("second")
    checkpoints = tmp_path / "bucket" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "yolov4.ckpt").write_bytes(b"weights")
    return [
        f"--data_url={data}",
        f"--checkpoint_url=file://{checkpoints}",
        f"--train_url={tmp_path}/bucket/out",
    ]


def test_nothing_happens_when_off(tmp_path):
    config = load_config([f"--data_url={tmp_path}/missing", f"--output_path={tmp_path}/out"])
    with modelarts_session(config) as inner:
        assert inner is config
    assert list(tmp_path.iterdir()) == []


def test_scheduler_of_msrun_brings_nothing_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    config = job(tmp_path, f"--data_url={tmp_path}/missing", f"--train_url={tmp_path}/out")
    with modelarts_session(config) as inner:
        assert inner is config
    assert list(tmp_path.iterdir()) == []


def test_published_defaults():
    config = load_config([])
    expected = {
        "enable_modelarts": False, "data_url": "", "train_url": "", "checkpoint_url": "",
        "data_path": "/cache/data", "output_path": "/cache/train", "load_path": "/cache/checkpoint_path",
        "need_modelarts_dataset_unzip": True, "modelarts_dataset_unzip_name": "coco",
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected


def test_folders_twice_in_a_row(tmp_path, buckets, caplog, monkeypatch):
    fetched = []
    fetch = object_storage.FolderStore.fetch
    monkeypatch.setattr(
        object_storage.FolderStore, "fetch", lambda self, key, to: (fetched.append(key), fetch(self, key, to))
    )
    data, out = tmp_path / "cache/data", tmp_path / "bucket/out"
    for number, expected in enumerate(
        [{"coco.zip", "notes/a.txt", "notes/b.txt", "yolov4.ckpt"}, {"notes/a.txt"}]
    ):
        fetched.clear()
        with modelarts_session(job(tmp_path, *buckets)) as config:
            assert config.ckpt_path == config.log_path == str(tmp_path / "cache/train/outputs")
            assert (data / "coco/annotations/train.json").read_text() == "{}"
            assert (data / "notes/a.txt").read_text() == ("first", "FIRST")[number]
            assert (tmp_path / "cache/load/yolov4.ckpt").read_bytes() == b"weights"
            run = Path(config.ckpt_path) / f"run{number}"
            run.mkdir(parents=True)
            (run / "0-1_6.ckpt").write_text(str(number))
        assert set(fetched) == expected
        assert (out / f"outputs/run{number}/0-1_6.ckpt").read_text() == str(number)
        (tmp_path / "bucket/data/notes/a.txt").write_text("FIRST")  # as long as before
        (tmp_path / "bucket/data/notes/b.txt").unlink(missing_ok=True)
    assert not (data / "notes/b.txt").exists()


def test_partial_folder_is_completed(tmp_path, buckets):
    with modelarts_session(job(tmp_path, *buckets)):
        pass
    data = tmp_path / "cache/data"
    (data / "notes/a.txt").unlink()
    (data / "notes/b.txt").write_text("sec")
    (data / "coco/annotations/train.json").unlink()
    (tmp_path / "cache/.data.synced.json").write_text("{ broken")
    with modelarts_session(job(tmp_path, *buckets)):
        assert (data / "notes/a.txt").read_text() == "first"
        assert (data / "notes/b.txt").read_text() == "second"
        assert (data / "coco/annotations/train.json").read_text() == "{}"


def test_another_source_of_equal_looks(tmp_path, buckets):
    """Same name, size and time, but another bucket."""
    with modelarts_session(job(tmp_path, *buckets)):
        pass
    other = tmp_path / "bucket/other"
    other.mkdir()
    (other / "a.txt").write_text("x")
    (other / "notes").mkdir()
    (other / "notes/a.txt").write_text("other")
    found = (tmp_path / "bucket/data/notes/a.txt").stat()
    os.utime(other / "notes/a.txt", ns=(found.st_atime_ns, found.st_mtime_ns))
    with modelarts_session(job(tmp_path, f"--data_url={other}", "--need_modelarts_dataset_unzip=0")):
        assert (tmp_path / "cache/data/notes/a.txt").read_text() == "other"


@pytest.mark.parametrize("error", [ValueError("of the run"), UserError("of the run"), KeyboardInterrupt()])
def test_failing_run_uploads_and_keeps_its_error(tmp_path, buckets, error):
    with pytest.raises(type(error)) as caught, modelarts_session(job(tmp_path, *buckets)) as config:
        Path(config.log_path).mkdir(parents=True)
        (Path(config.log_path) / "run.log").write_text("so far")
        raise error
    assert caught.value is error
    assert (tmp_path / "bucket/out/outputs/run.log").read_text() == "so far"


def test_resume_on_another_host_brings_results_back(tmp_path, buckets):
    """First host, then one with an empty disk: only with `resume`, and nothing newer is overwritten."""
    with modelarts_session(job(tmp_path, *buckets)) as config:
        run = Path(config.ckpt_path) / "run0" / "ckpt_0"
        run.mkdir(parents=True)
        (run / "0-1_6.ckpt").write_text("step 6")
        (run / "0-2_12.ckpt").write_text("step 12")
    (tmp_path / "bucket/out/outputs/.stray.part").write_text("half an upload")
    fresh = tmp_path / "host2"
    with modelarts_session(job(fresh, *buckets)) as config:
        assert not Path(config.ckpt_path).exists()
    there = Path(config.ckpt_path) / "run0" / "ckpt_0"
    there.mkdir(parents=True)
    (there / "0-2_12.ckpt").write_text("newer, not uploaded")
    uploaded = (tmp_path / "bucket/out/outputs/run0/ckpt_0/0-1_6.ckpt").stat().st_ino
    with modelarts_session(job(fresh, *buckets, "--resume=auto")) as config:
        assert (there / "0-1_6.ckpt").read_text() == "step 6"
        assert (there / "0-2_12.ckpt").read_text() == "newer, not uploaded"
        assert not list(fresh.rglob("*.part"))
    out = tmp_path / "bucket/out/outputs/run0/ckpt_0"
    assert (out / "0-2_12.ckpt").read_text() == "newer, not uploaded"
    assert (out / "0-1_6.ckpt").stat().st_ino == uploaded  # what came back is not uploaded again


def test_first_run_with_resume_has_nothing_to_bring_back(tmp_path, buckets):
    with modelarts_session(job(tmp_path, *buckets, "--resume=auto")) as config:
        assert list(Path(config.output_path).iterdir()) == []


def test_bringing_back_that_is_cut_off_is_completed(tmp_path, buckets, monkeypatch):
    results = tmp_path / "bucket/out/outputs"
    results.mkdir(parents=True)
    (results / "0-1_6.ckpt").write_text("step 6")

    def cut(store, key, target):
        target.write_text("ste")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(object_storage.FolderStore, "fetch", cut)
        with pytest.raises(KeyboardInterrupt), modelarts_session(job(tmp_path, buckets[2], "--resume=auto")):
            pytest.fail("the run began")
    with modelarts_session(job(tmp_path, buckets[2], "--resume=auto")) as config:
        assert (Path(config.ckpt_path) / "0-1_6.ckpt").read_text() == "step 6"


def test_results_larger_than_the_disk_are_not_brought_back(tmp_path, buckets, monkeypatch):
    (tmp_path / "bucket/out").mkdir()
    (tmp_path / "bucket/out/large.ckpt").write_bytes(bytes(1000))
    store = object_storage.open_store(f"{tmp_path}/bucket/out", "train_url")
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(
        modelarts.shutil, "disk_usage", lambda _: modelarts.shutil._ntuple_diskusage(10, 9, 1)
    )
    with pytest.raises(UserError, match="train_url: resume needs 1,000 bytes"):
        modelarts.bring_back(store, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


class Broken:
    """A store whose first `failures` uploads fail."""

    option = "train_url"

    def __init__(self, failures):
        self.failures, self.put_keys = failures, []

    def check(self):
        pass

    def contents(self):
        return {}

    def put(self, source, key):
        if self.failures:
            self.failures -= 1
            raise OSError(5, "connection lost")
        self.put_keys.append(key)


@pytest.mark.parametrize(
    ("failures", "fails", "visible"), [(2, False, None), (9, False, "train_url"), (9, True, "body")]
)
def test_upload_errors(tmp_path, monkeypatch, failures, fails, visible):
    store = Broken(failures)
    monkeypatch.setattr(modelarts, "open_store", lambda url, option: store)
    errors = []
    monkeypatch.setattr(modelarts.get_logger(), "error", lambda text, *args: errors.append(text % args))
    caught = None
    try:
        with modelarts_session(job(tmp_path, "--train_url=s3://b/out")):
            (tmp_path / "cache/train/one").write_text("1")
            if fails:
                raise ValueError("body")
    except (UserError, ValueError) as error:
        caught = str(error)
    assert (caught is None) if visible is None else visible in caught
    assert len(errors) == (visible is not None)
    assert store.put_keys == ([] if visible else ["one"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--data_url={0}/missing"], "data_url: nothing found at"),
        (["--data_url=ftp://host/x"], "data_url: ftp://host/x: cannot read ftp://"),
        (["--data_url=s3:///x"], "data_url: s3:///x names no bucket"),
        (["--data_url=obs://bucket/x"], "OBS_ENDPOINT"),
        (["--train_url={0}/cache/train/out"], "train_url"),
        (["--data_url={0}/cache"], "data_url"),
        (["--data_path={0}/cache/train/data"], "data_path"),
        (["--data_path="], "data_path: must name a folder"),
        (["--ckpt_path=../elsewhere"], "ckpt_path: ../elsewhere is outside output_path"),
        (["--log_path=/elsewhere"], "log_path: /elsewhere is outside output_path"),
        (["--modelarts_dataset_unzip_name=../x"], "modelarts_dataset_unzip_name: '../x'"),
        (["--modelarts_dataset_unzip_name="], "modelarts_dataset_unzip_name: ''"),
        (["--train_url={0}/file"], "train_url: cannot make folder"),
    ],
)
def test_bad_options_are_named(tmp_path, words, named):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError) as caught,
        modelarts_session(job(tmp_path, *(word.format(tmp_path) for word in words))),
    ):
        pytest.fail("the run began")
    assert named in str(caught.value) and "\n" not in str(caught.value)


def test_hostile_zip_stops_the_job(tmp_path, buckets):
    with zipfile.ZipFile(tmp_path / "bucket/data/coco.zip", "w") as opened:
        opened.writestr("../../evil", "x")
    with pytest.raises(UserError, match=r"coco\.zip.*evil"), modelarts_session(job(tmp_path, *buckets)):
        pytest.fail("the run began")
    assert not list(tmp_path.rglob("evil"))


def test_keys_in_the_address_are_refused_and_not_shown(tmp_path):
    with (
        pytest.raises(UserError) as caught,
        modelarts_session(job(tmp_path, f"--data_url=s3://{KEY}:{SECRET}@b/x")),
    ):
        pass
    assert SECRET not in str(caught.value) and KEY not in str(caught.value)


# -------------------------------------------------------------------- processes of one host

WORKER = """
    import os, sys, time
    from pathlib import Path
    from src.remote import object_storage
    from src.config import load_config
    from src.remote.modelarts import modelarts_session
    rank, log = sys.argv[1], Path(sys.argv[2])
    def note(word):
        with log.open("a") as handle:
            handle.write(f"{rank} {word}\\n")
    fetch = object_storage.FolderStore.fetch
    def slow_fetch(self, key, target):
        note(f"fetch {key}")
        time.sleep(0.3)
        fetch(self, key, target)
    object_storage.FolderStore.fetch = slow_fetch
    put = object_storage.FolderStore.put
    object_storage.FolderStore.put = lambda self, source, key: (note(f"put {key}"), put(self, source, key))
    with modelarts_session(load_config(sys.argv[3:])) as config:
        assert (Path(config.data_path) / "coco/annotations/train.json").read_text() == "{}"
        note("began")
        while log.read_text().count("began") < 3:
            time.sleep(0.02)
        folder = Path(config.ckpt_path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank{rank}").write_text(rank)
        time.sleep(0.2 * int(rank))
        note("ended")
        if os.environ.get("WAIT_FOR_STOP"):
            time.sleep(60)
"""


def worker(tmp_path, rank, words, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(rank), tmp_path / "notes.log", "--enable_modelarts=1",
         f"--data_path={tmp_path}/cache/data", f"--output_path={tmp_path}/cache/train",
         f"--load_path={tmp_path}/cache/load", *words],
        cwd=ROOT, env={**os.environ, **environment, "RANK_ID": str(rank)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_three_processes_fetch_once_and_the_last_uploads(tmp_path, buckets):
    processes = [worker(tmp_path, rank, buckets) for rank in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    lines = (tmp_path / "notes.log").read_text().splitlines()
    fetched = [line.split(" fetch ") for line in lines if " fetch " in line]
    assert sorted(key for _, key in fetched) == ["coco.zip", "notes/a.txt", "notes/b.txt", "yolov4.ckpt"]
    assert len({rank for rank, key in fetched if key != "yolov4.ckpt"}) == 1
    last_end = max(number for number, line in enumerate(lines) if line.endswith("ended"))
    puts = [(number, line) for number, line in enumerate(lines) if " put " in line]
    assert sorted(line.split(" put ")[1] for _, line in puts) == [f"outputs/rank{rank}" for rank in range(3)]
    assert min(number for number, _ in puts) > last_end


def test_killed_while_fetching_blocks_nobody(tmp_path, buckets):
    first = worker(tmp_path, 0, buckets)
    log = tmp_path / "notes.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "fetch" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "cache/data/coco").exists()
    log.write_text("began\nbegan\n")
    again = worker(tmp_path, 1, buckets)
    output = again.communicate(timeout=60)[0]
    assert again.returncode == 0, output
    assert (tmp_path / "bucket/out/outputs/rank1").exists()


def test_stop_from_outside_uploads(tmp_path, buckets):
    log = tmp_path / "notes.log"
    log.write_text("began\nbegan\n")
    process = worker(tmp_path, 0, buckets, WAIT_FOR_STOP="1")
    deadline = time.monotonic() + 60
    while "ended" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + signal.SIGTERM, output
    assert (tmp_path / "bucket/out/outputs/rank0").read_text() == "0"


def test_killed_run_is_uploaded_by_its_watchman(tmp_path, buckets):
    log = tmp_path / "notes.log"
    log.write_text("began\nbegan\n")
    relative = f"--train_url={os.path.relpath(tmp_path / 'bucket/out', ROOT)}"
    process = worker(tmp_path, 0, [*buckets, relative], WAIT_FOR_STOP="1")
    deadline = time.monotonic() + 60
    while "ended" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # as msrun does
    output = process.communicate(timeout=30)[0]  # its end: the watchman has gone too
    assert (tmp_path / "bucket/out/outputs/rank0").read_text() == "0"
    assert f"process {process.pid} ended without a word" in output


# -------------------------------------------------------------------- moxing

MOXING = """
    import os, shutil
    from pathlib import Path
    from types import SimpleNamespace
    def real(url):
        return Path(os.environ["FAKE_OBS"]) / url[6:] if url.startswith("obs://") else Path(url)
    class file:
        exists = staticmethod(lambda url: real(url).exists())
        is_directory = staticmethod(lambda url: real(url).is_dir())
        @staticmethod
        def list_directory(url, recursive):
            return [str(path.relative_to(real(url))) for path in real(url).rglob("*")]
        copy = staticmethod(lambda source, target: shutil.copy(real(source), real(target)))
        @staticmethod
        def stat(url):
            found = real(url).stat()
            return SimpleNamespace(length=found.st_size, mtime_nsec=found.st_mtime_ns, is_directory=real(url).is_dir())
        @staticmethod
        def copy_parallel(source, target):
            with open(os.environ["FAKE_OBS"] + "/calls", "a") as calls:
                calls.write(f"{source} {target}\\n")
            shutil.copytree(real(source), real(target), dirs_exist_ok=True, copy_function=shutil.copy)
"""


def test_moxing_where_it_can_be_imported(tmp_path, buckets, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/moxing.py").write_text(textwrap.dedent(MOXING))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("FAKE_OBS", str(tmp_path))
    words = [
        "--data_url=obs://bucket/data/",
        "--train_url=obs://bucket/out",
        "--checkpoint_url=obs://bucket/checkpoints/yolov4.ckpt",
    ]
    for number in range(2):
        with modelarts_session(job(tmp_path, *words)) as config:
            assert (tmp_path / "cache/data/coco/annotations/train.json").read_text() == "{}"
            assert (tmp_path / "cache/load/yolov4.ckpt").read_bytes() == b"weights"
            Path(config.ckpt_path).mkdir(exist_ok=True)
            (Path(config.ckpt_path) / f"{number}.ckpt").write_text("w")
        assert (tmp_path / f"bucket/out/outputs/{number}.ckpt").exists()
    out = f"{tmp_path}/cache/train obs://bucket/out"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"obs://bucket/data {tmp_path}/cache/data", out, out]
    fresh = tmp_path / "host2"
    with modelarts_session(job(fresh, words[1], "--resume=auto")) as config:
        assert sorted(path.name for path in Path(config.ckpt_path).iterdir()) == ["0.ckpt", "1.ckpt"]
        # File by file: a folder copy that is cut off would leave halves under their final names.
        assert (tmp_path / "calls").read_text().splitlines() == calls


# -------------------------------------------------------------------- a real S3 server


@pytest.fixture(scope="module")
def server():
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A client of a fresh bucket `remote-sensing`; the environment that jobs need."""
    monkeypatch.setenv("OBS_ENDPOINT", server)
    monkeypatch.setenv("OBS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("OBS_SECRET_ACCESS_KEY", SECRET)
    client = boto3.client(
        "s3", endpoint_url=server, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket="remote-sensing")
    yield client
    for item in client.list_objects_v2(Bucket="remote-sensing").get("Contents", ()):
        client.delete_object(Bucket="remote-sensing", Key=item["Key"])
    client.delete_bucket(Bucket="remote-sensing")


def keys(client) -> dict[str, dict]:
    return {item["Key"]: item for item in client.list_objects_v2(Bucket="remote-sensing").get("Contents", ())}


def test_s3_in_and_out(tmp_path, s3):
    for key, body in {
        "data/": b"",
        "data/a": b"one",
        "data/sub/b": b"two",
        "database/c": b"no",
        "w/y.ckpt": b"w",
    }.items():
        s3.put_object(Bucket="remote-sensing", Key=key, Body=body)
    words = ["--data_url=s3://remote-sensing/data", "--checkpoint_url=obs://remote-sensing/w/y.ckpt",
             "--train_url=s3://remote-sensing/out/"]  # fmt: skip
    large = bytes(range(256)) * (9 << 12)  # over one part
    with modelarts_session(job(tmp_path, *words)):
        data = tmp_path / "cache/data"
        assert {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()} == {"a", "sub/b"}
        assert (data / "sub/b").read_bytes() == b"two"
        assert (tmp_path / "cache/load/y.ckpt").read_bytes() == b"w"
        (tmp_path / "cache/train/large").write_bytes(large)
        (tmp_path / "cache/train/small").write_bytes(b"1")
        (tmp_path / "cache/train/empty").write_bytes(b"")
    first = keys(s3)
    assert s3.get_object(Bucket="remote-sensing", Key="out/large")["Body"].read() == large
    time.sleep(1.1)  # moto's times are whole seconds
    s3.put_object(Bucket="remote-sensing", Key="data/a", Body=b"ONE")
    with modelarts_session(job(tmp_path, *words)):
        assert (tmp_path / "cache/data/a").read_bytes() == b"ONE"
        (tmp_path / "cache/train/small").write_bytes(b"2")
    second = keys(s3)
    changed = {
        key
        for key in second
        if key.startswith("out") and second[key]["LastModified"] != first[key]["LastModified"]
    }
    assert changed == {"out/small"}


def test_s3_results_brought_back_for_resume(tmp_path, s3):
    s3.put_object(Bucket="remote-sensing", Key="out/outputs/run0/0-1_6.ckpt", Body=b"step 6")
    s3.put_object(Bucket="remote-sensing", Key="outside/x", Body=b"no")
    before = keys(s3)
    with modelarts_session(job(tmp_path, "--train_url=s3://remote-sensing/out", "--resume=auto")) as config:
        assert (Path(config.ckpt_path) / "run0/0-1_6.ckpt").read_bytes() == b"step 6"
        assert not list(tmp_path.rglob("x"))
    assert keys(s3) == before


def test_s3_result_that_would_escape_is_refused(tmp_path, s3):
    s3.put_object(Bucket="remote-sensing", Key="out/../../evil", Body=b"x")
    with (
        pytest.raises(UserError, match=r"train_url.*evil"),
        modelarts_session(job(tmp_path, "--train_url=s3://remote-sensing/out", "--resume=auto")),
    ):
        pytest.fail("the run began")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("key", ["data/../../evil", "data//etc/evil", "data/..", "data/a\\..\\evil"])
def test_s3_key_that_would_escape_is_refused(tmp_path, s3, key):
    s3.put_object(Bucket="remote-sensing", Key="data/fine", Body=b"x")
    s3.put_object(Bucket="remote-sensing", Key=key, Body=b"x")
    assert key in keys(s3)
    with (
        pytest.raises(UserError) as caught,
        modelarts_session(job(tmp_path, "--data_url=s3://remote-sensing/data")),
    ):
        pytest.fail("the run began")
    assert repr(key.removeprefix("data/")) in str(caught.value)
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("fine"))


def test_s3_errors_name_the_option(tmp_path, s3, monkeypatch):
    for option in ("data_url", "train_url", "checkpoint_url"):
        with (
            pytest.raises(UserError, match=rf"{option}: s3://none/x: .*NoSuchBucket"),
            modelarts_session(job(tmp_path, f"--{option}=s3://none/x")),
        ):
            pass
    monkeypatch.delenv("OBS_SECRET_ACCESS_KEY")
    with (
        pytest.raises(UserError, match="OBS_SECRET_ACCESS_KEY is not"),
        modelarts_session(job(tmp_path, "--data_url=s3://none/x")),
    ):
        pass
    monkeypatch.setitem(sys.modules, "boto3", None)
    with (
        pytest.raises(UserError, match=r"data_url.*pip install boto3"),
        modelarts_session(job(tmp_path, "--data_url=s3://none/x")),
    ):
        pass


def test_unreachable_endpoint_shows_no_password(tmp_path, s3, monkeypatch):
    monkeypatch.setenv("OBS_ENDPOINT", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(UserError) as caught, modelarts_session(job(tmp_path, "--data_url=s3://b/x")):
        pass
    assert SECRET not in str(caught.value) and "data_url" in str(caught.value)


def run_job(entry: str, *words: str):
    return subprocess.run(
        [sys.executable, ROOT / entry, *words], capture_output=True, text=True, check=False, timeout=300
    )


def test_training_from_bucket_to_bucket_by_both_methods(tmp_path, s3):
    """Data zip in, a real training run, checkpoints out: options on the command line, then in a YAML."""
    tiles = write_tiles(tmp_path / "coco", train=2, val=2)
    with zipfile.ZipFile(tmp_path / "coco.zip", "w") as opened:
        for path in tiles.rglob("*"):
            opened.write(path, path.relative_to(tmp_path))
    s3.upload_file(str(tmp_path / "coco.zip"), "remote-sensing", "dota/coco.zip")
    cloud = {
        "enable_modelarts": True,
        "data_url": "s3://remote-sensing/dota/",
        "train_url": "s3://remote-sensing/results/",
        "data_path": f"{tmp_path}/cache/data",
        "output_path": f"{tmp_path}/cache/train",
        "load_path": f"{tmp_path}/cache/load",
        "data_dir": f"{tmp_path}/cache/data/coco/",
        "ckpt_path": "outputs/",
    }
    tiny = [*OPTIONS, "--max_epoch=1"]
    first = run_job("train.py", *tiny, *(f"--{key}={value}" for key, value in cloud.items()))
    assert first.returncode == 0, first.stderr[-2000:]
    checkpoints = {key for key in keys(s3) if key.endswith(".ckpt")}
    assert checkpoints and all(key.startswith("results/outputs/") for key in checkpoints)
    assert any(key.endswith(".log") for key in keys(s3))

    # A new run writes to a folder of its own; weights of the first come in through checkpoint_url.
    source, name = sorted(checkpoints)[-1].rsplit("/", 1)
    (tmp_path / "job.yaml").write_text(
        yaml.safe_dump(
            {
                **cloud,
                "checkpoint_url": f"s3://remote-sensing/{source}",
                "pretrained_checkpoint": f"{tmp_path}/cache/load/{name}",
            }
        )
    )
    second = run_job("train.py", *tiny, "--config_path", str(tmp_path / "job.yaml"))
    assert second.returncode == 0, second.stderr[-2000:]
    assert checkpoints < {key for key in keys(s3) if key.endswith(".ckpt")}
    assert "already unpacked" in second.stdout

    evaluated = run_job(
        "eval.py", *options_of("eval"), "--config_path", str(tmp_path / "job.yaml"),
        f"--pretrained={tmp_path}/cache/load/{name}",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    assert [key for key in keys(s3) if key.endswith(".json") and key.startswith("results/outputs/")]

    broken = run_job(
        "train.py", *tiny, "--config_path", str(tmp_path / "job.yaml"), "--pretrained_checkpoint=none.ckpt"
    )
    assert broken.returncode == 2
    assert [line for line in broken.stderr.splitlines() if line.startswith("error:") and "none.ckpt" in line]
    runs = {key.split("/")[2] for key in keys(s3) if key.startswith("results/outputs/")}
    assert (
        len(runs) >= 3
    )  # two trainings, the evaluation, and what the failed run logged (names have seconds)

    for done in (first, second, evaluated, broken):
        for secret in (KEY, SECRET):
            assert secret not in done.stdout + done.stderr
    for key in keys(s3):
        body = s3.get_object(Bucket="remote-sensing", Key=key)["Body"].read()
        assert SECRET.encode() not in body and KEY.encode() not in body
    record = json.loads((tmp_path / "cache/.data.synced.json").read_text())
    assert record["complete"] and SECRET not in json.dumps(record)


class _Listing:
    """A client whose listing has these pages, again and again if told so."""

    def __init__(self, page, endless=False):
        self.page, self.endless = page, endless

    def get_paginator(self, name):
        return self

    def paginate(self, **names):
        while True:
            yield self.page
            if not self.endless:
                return


@pytest.mark.parametrize("page", [{}, {"Contents": [{"Key": "a/b", "Size": 1}] * 3}])
def test_a_listing_without_end_is_given_up(monkeypatch, page):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(object_storage, "MOST_EMPTY_PAGES", 5, raising=False)
    monkeypatch.setattr(object_storage, "MOST_OBJECTS", 0, raising=False)
    store = object_storage.open_store("s3://bucket/a", "data_url")
    store.client = _Listing(page, endless=True)
    with pytest.raises(UserError, match="listing does not end"):
        store.contents()


@pytest.mark.parametrize("year", [1, 1960, 9999, None])
def test_times_of_s3_that_no_file_has(monkeypatch, year):
    from datetime import datetime, timezone

    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    store = object_storage.open_store("s3://bucket/a", "data_url")
    moment = {} if year is None else {"LastModified": datetime(year, 1, 1, tzinfo=timezone.utc)}
    store.client = _Listing({"Contents": [{"Key": "a/b", "Size": 1, **moment}]})
    assert store.contents()["b"].mtime_ns == 0


def test_a_transfer_that_trickles_is_stopped(monkeypatch):
    pace = Pace(seconds=0.0)
    monkeypatch.setattr("src.remote.pace.SLOWEST", 10**12)
    with pytest.raises(TimeoutError, match="slower than"):
        pace(1)
