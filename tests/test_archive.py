"""Archives: what is refused leaves nothing behind, what is accepted is unpacked once and completely."""

import os
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.remote import archive
from src.remote.archive import unpack_once


def write_zip(path: Path, files: dict[str, bytes], compress: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "cache" / "data"
    folder.mkdir(parents=True)
    return folder


GOOD = {
    "coco/": b"",
    "coco/annotations/train.json": b"{}",
    "coco/train/1.png": b"picture",
    "coco/empty/": b"",
}


def test_unpacked_completely_and_once(data):
    path = write_zip(data / "coco.zip", GOOD)
    assert unpack_once(path, data) is True
    found = tree(data)
    assert found.pop("coco.zip")
    assert found == {
        "coco": None,
        "coco/annotations": None,
        "coco/annotations/train.json": b"{}",
        "coco/empty": None,
        "coco/train": None,
        "coco/train/1.png": b"picture",
    }
    written = (data / "coco/train/1.png").stat().st_mtime_ns
    assert unpack_once(path, data) is False
    os.utime(path)  # the same content, copied anew
    assert unpack_once(path, data) is False
    assert (data / "coco/train/1.png").stat().st_mtime_ns == written


def test_lost_file_is_brought_back(data):
    path = write_zip(data / "coco.zip", GOOD)
    unpack_once(path, data)
    (data / "coco/train/1.png").write_bytes(b"pic")
    assert unpack_once(path, data) is True
    assert (data / "coco/train/1.png").read_bytes() == b"picture"


def test_changed_archive_replaces_its_former_content_only(data):
    unpack_once(write_zip(data / "coco.zip", GOOD), data)
    (data / "coco/train/mine.txt").write_text("stays")
    changed = {"coco/annotations/train.json": b"[]", "coco/train/2.png": b"other"}
    assert unpack_once(write_zip(data / "coco.zip", changed), data) is True
    assert (data / "coco/annotations/train.json").read_bytes() == b"[]"
    assert sorted(path.name for path in (data / "coco/train").iterdir()) == ["2.png", "mine.txt"]


def test_interrupted_move_is_completed(data, monkeypatch):
    path = write_zip(data / "coco.zip", GOOD)
    monkeypatch.setattr(archive, "_move_into", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        unpack_once(path, data)
    monkeypatch.undo()
    (data / ".coco.zip.unpacking").mkdir()  # what a killed process would leave
    assert unpack_once(path, data) is True
    assert (data / "coco/train/1.png").read_bytes() == b"picture"
    assert not (data / ".coco.zip.unpacking").exists()


@pytest.mark.parametrize("record", ["{}", "[]", '{"files": 3, "complete": true}', "not JSON", ""])
def test_unusable_record_is_as_none(data, record):
    path = write_zip(data / "coco.zip", GOOD)
    unpack_once(path, data)
    (data.parent / ".data.coco.zip.json").write_text(record)
    assert unpack_once(path, data) is True
    assert unpack_once(path, data) is False


def test_names_that_only_begin_like_devices_are_fine(data):
    names = ["container-crane/1.png", "console", "nullable.json", "com/1.png", "auxiliary/x", "lpt10.png"]
    assert unpack_once(write_zip(data / "coco.zip", dict.fromkeys(names, b"x")), data) is True
    assert all((data / name).is_file() for name in names)


def special(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "outside the folder"),
        ("coco/../../evil", "outside the folder"),
        ("coco/..", "outside the folder"),
        ("/tmp/evil", "absolute path"),
        ("C:/evil", "absolute path"),
        ("c:evil", "absolute path"),
        ("..\\evil", "backslash"),
        ("coco\\1.png", "backslash"),
        ("coco.zip", "replace the archive"),
        (special("link", stat.S_IFLNK | 0o777), "symbolic link"),
        (special("pipe", stat.S_IFIFO | 0o666), "neither a file nor a folder"),
        (special("null", stat.S_IFCHR | 0o666), "neither a file nor a folder"),
        ("coco/NUL", "name of a device"),
        ("con.jpg", "name of a device"),
        ("coco/Lpt1.tar.gz", "name of a device"),
        ("aux/1.png", "name of a device"),
        ("coco/1.png", "is a duplicate"),
        ("coco/./1.png", "is a duplicate"),
        ("coco/1.png/below", "a file and a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_entry_refused_and_nothing_written(tmp_path, data, name, reason):
    path = data / "coco.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("coco/1.png", b"fine")
        opened.writestr(name, b"../../secret")
    before = tree(tmp_path)
    with pytest.raises(UserError) as caught:
        unpack_once(path, data)
    assert reason in str(caught.value) and str(path) in str(caught.value)
    assert repr(getattr(name, "filename", name)) in str(caught.value) or reason == "a file and a folder"
    assert tree(tmp_path) == before


def test_encrypted_entry_refused(data):
    path = write_zip(data / "coco.zip", {"a": b"content"})
    packed = bytearray(path.read_bytes())
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(packed)
    with pytest.raises(UserError, match="'a' is encrypted"):
        unpack_once(path, data)


def test_bomb_refused(tmp_path, data):
    path = data / "coco.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened, opened.open("zeros", "w") as entry:
        for _ in range(80):
            entry.write(bytes(1 << 20))
    before = set(tree(tmp_path))
    with pytest.raises(
        UserError, match=r"coco\.zip: refused.*more than 100 times.*entry is 'zeros' with 83,886"
    ):
        unpack_once(path, data)
    assert set(tree(tmp_path)) == before


def test_larger_than_the_disk_refused(tmp_path, data, monkeypatch):
    path = write_zip(data / "coco.zip", {"a": bytes(1000)})
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: archive.shutil._ntuple_diskusage(10, 9, 1))
    before = tree(tmp_path)
    with pytest.raises(UserError, match="1,000 bytes unpacked"):
        unpack_once(path, data)
    assert tree(tmp_path) == before


def test_understated_size_writes_nothing(tmp_path, data):
    """A header that says 10 bytes over a long stream: the checksum fails and everything goes."""
    path = write_zip(data / "coco.zip", {"first": b"x", "long": bytes(100_000)})
    packed = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        header = packed.rindex(signature) + offset
        packed[header : header + 4] = (10).to_bytes(4, "little")
    path.write_bytes(packed)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="'long'"):
        unpack_once(path, data)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_not_a_zip(data, content):
    (data / "coco.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"coco\.zip: not a readable zip"):
        unpack_once(data / "coco.zip", data)


def test_link_in_the_folder_is_not_followed(tmp_path, data):
    (tmp_path / "outside").mkdir()
    (data / "coco").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="'coco' meets a link"):
        unpack_once(write_zip(data / "coco.zip", GOOD), data)
    assert tree(tmp_path / "outside") == {}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(seed=st.data())
def test_damaged_archive_is_one_error_and_leaves_nothing(tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("fuzz")
    data = root / "data"
    data.mkdir()
    path = write_zip(data / "coco.zip", {"coco/a": bytes(range(200)), "coco/b": b"text" * 50})
    packed = bytearray(path.read_bytes())
    for _ in range(seed.draw(st.integers(1, 4))):
        packed[seed.draw(st.integers(0, len(packed) - 1))] = seed.draw(st.integers(0, 255))
    path.write_bytes(packed)
    before = tree(root)
    try:
        unpack_once(path, data)
    except UserError as error:
        assert "\n" not in str(error)
        assert tree(root) == before
    assert all(name.startswith("data") for name in tree(root.parent / root.name) if not name.startswith("."))
