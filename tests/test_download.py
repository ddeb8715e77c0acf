"""Checkpoints by address: against a real local server that breaks off, lies, redirects; one download a host."""

import hashlib
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.base.errors import UserError
from src.config import load_config
from src.detect.backends import open_model, runs_without_mindspore
from src.remote import download
from src.remote.download import ending_of, local_file, parse_address
from src.runtime.device import Runtime
from src.train.run import start_run
from src.weights.checkpoint import save_checkpoint
from src.yolo import build_network
from tests import ROOT
from tests.file_server import Behaviour, file_server
from tests.tiny import OPTIONS, tiny_config, write_tiles

CONTENT = b"\x0a" + np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No pauses between attempts, no proxy in front of the local server."""
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")


def fetch(url, folder, sha=SHA, option="pretrained_checkpoint"):
    return local_file(f"{url}/net.ckpt" + (f"#sha256={sha}" if sha else ""), option, str(folder))


def left_over(folder):
    """What is kept beside downloads, but for lock files, which mean nothing."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_path_is_taken_as_it_is(tmp_path):
    assert local_file("some/net.ckpt", "pretrained", str(tmp_path)) == Path("some/net.ckpt")
    assert not left_over(tmp_path)


@pytest.mark.parametrize("chunked", [False, True])
def test_downloaded_once(tmp_path, chunked):
    behaviour = Behaviour(CONTENT, chunked=chunked)
    with file_server(behaviour) as url:
        path = fetch(url, tmp_path / "cache")
        assert path.read_bytes() == CONTENT
        assert fetch(url, tmp_path / "cache") == path
    assert [request[:2] for request in behaviour.requests] == [("/net.ckpt", None)]
    assert left_over(tmp_path / "cache") == [f"net-{SHA[:12]}.ckpt"]
    assert fetch(url, tmp_path / "cache") == path  # the server is gone


def test_a_broken_connection_is_taken_up_where_it_broke(tmp_path):
    behaviour = Behaviour(CONTENT, break_after=[100_000, 50_000])
    with file_server(behaviour) as url:
        assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert [request[1:] for request in behaviour.requests] == [
        (None, None),
        ("bytes=100000-", '"one"'),
        ("bytes=150000-", '"one"'),
    ]
    assert left_over(tmp_path) == [f"net-{SHA[:12]}.ckpt"]


@pytest.mark.parametrize("sha", [SHA, ""])
def test_a_later_run_goes_on(tmp_path, sha):
    behaviour = Behaviour(CONTENT, break_after=[120_000, 0, 0, 0])
    with file_server(behaviour) as url:
        with pytest.raises(UserError, match=r"120000 of 300001 bytes.*120000 bytes are kept") as caught:
            fetch(url, tmp_path, sha)
        assert "\n" not in str(caught.value) and "give its path as pretrained_checkpoint" in str(caught.value)
        assert len(behaviour.requests) == 4  # one with progress, and three without
        assert fetch(url, tmp_path, sha).read_bytes() == CONTENT
    assert behaviour.requests[-1][1] == "bytes=120000-"


def test_another_version_on_the_server_starts_anew(tmp_path):
    behaviour = Behaviour(b"\x0a" + b"old" * 100_000, break_after=[120_000, 0, 0, 0])
    with file_server(behaviour) as url:
        with pytest.raises(UserError, match="cannot be downloaded"):
            fetch(url, tmp_path, "")
        behaviour.content, behaviour.etag = CONTENT, '"two"'
        assert fetch(url, tmp_path, "").read_bytes() == CONTENT
    assert behaviour.requests[-1][1:] == ("bytes=120000-", '"one"')


@pytest.mark.parametrize(("etag", "sha"), [("", ""), ('W/"weak"', "")])
def test_without_a_mark_or_a_checksum_nothing_is_pieced_together(tmp_path, etag, sha):
    behaviour = Behaviour(CONTENT, etag=etag, break_after=[1000])
    with file_server(behaviour) as url:
        assert fetch(url, tmp_path, sha).read_bytes() == CONTENT
    assert [request[1] for request in behaviour.requests] == [None, None]


def test_a_server_without_range_starts_anew(tmp_path):
    behaviour = Behaviour(CONTENT, ranges=False, break_after=[100_000])
    with file_server(behaviour) as url:
        assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_wrongly_pieced_content_is_fetched_once_more_whole(tmp_path):
    """No mark of the version, but a checksum: the pieces are of two files, which the checksum shows."""
    behaviour = Behaviour(b"\x0a" + b"x" * 300_000, etag="", break_after=[100_000, 0, 0, 0])
    with file_server(behaviour) as url:
        with pytest.raises(UserError, match="cannot be downloaded"):
            fetch(url, tmp_path)
        behaviour.content = CONTENT
        assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert [request[1] for request in behaviour.requests[-2:]] == ["bytes=100000-", None]


def test_a_complete_part_needs_only_its_check(tmp_path):
    with file_server(Behaviour(CONTENT)) as url:
        (tmp_path / f".net-{SHA[:12]}.ckpt.part").write_bytes(CONTENT)
        assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_wrong_checksum_keeps_nothing(tmp_path):
    expected = f"its sha256 is {SHA}, expected {'0' * 64}; nothing was kept"
    with file_server(Behaviour(CONTENT)) as url, pytest.raises(UserError, match=expected):
        fetch(url, tmp_path, "0" * 64)
    assert left_over(tmp_path) == []


def test_a_damaged_file_in_the_folder_is_fetched_again(tmp_path):
    behaviour = Behaviour(CONTENT)
    with file_server(behaviour) as url:
        path = fetch(url, tmp_path)
        path.write_bytes(CONTENT[:-1] + b"!")
        assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert len(behaviour.requests) == 2


def test_without_a_checksum_the_one_found_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(download.get_logger(), "propagate", True)  # runs in other tests end it
    with file_server(Behaviour(CONTENT)) as url:
        fetch(url, tmp_path, "")
    assert f"append #sha256={SHA}" in caplog.text


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (503, 3)])
def test_failures_of_the_server(tmp_path, status, attempts):
    behaviour = Behaviour(CONTENT, statuses=[status] * 9)
    with file_server(behaviour) as url, pytest.raises(UserError, match=rf"net\.ckpt: .*{status} ") as caught:
        fetch(url, tmp_path)
    assert len(behaviour.requests) == attempts and str(caught.value).startswith(
        "pretrained_checkpoint: http://"
    )
    assert left_over(tmp_path) == []


def test_a_passing_failure_is_passed_over(tmp_path):
    with file_server(Behaviour(CONTENT, statuses=[503, 429])) as url:
        assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_redirects_are_followed_to_http_alone(tmp_path):
    secret = tmp_path / "secret.ckpt"
    secret.write_bytes(CONTENT)
    with file_server(Behaviour(CONTENT)) as elsewhere:
        behaviour = Behaviour(CONTENT, statuses=[302], location=f"{elsewhere}/moved.ckpt")
        with file_server(behaviour) as url:
            assert fetch(url, tmp_path / "a").read_bytes() == CONTENT
    for location in (secret.as_uri(), "ftp://127.0.0.1/net.ckpt", "data:,x", "/net.ckpt"):
        behaviour = Behaviour(CONTENT, statuses=[302] * 30, location=location)
        with file_server(behaviour) as url, pytest.raises(UserError, match=r"is redirected to .* refused"):
            fetch(url, tmp_path / "b", SHA)
    assert left_over(tmp_path / "b") == []


def test_from_https_to_http_is_refused():
    import urllib.error
    import urllib.request

    request = urllib.request.Request("https://127.0.0.1/net.ckpt")
    with pytest.raises(urllib.error.HTTPError):
        download._Redirects().redirect_request(request, None, 302, "Found", {}, "http://127.0.0.1/net.ckpt")


def test_no_network(tmp_path):
    with socket.socket() as closed:  # bound and not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(
            UserError, match=r"cannot be downloaded \(Connection refused\)\. Check the network"
        ):
            fetch(f"http://127.0.0.1:{closed.getsockname()[1]}", tmp_path)
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch("http://host.invalid", tmp_path)


def test_an_answer_that_stops(tmp_path, monkeypatch):
    """A server that takes the request and says nothing."""
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UserError, match=r"cannot be downloaded \(timed out\)"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x95pickle", "a pickle or zip archive"),
        (b"PK\x03\x04archive/data.pkl", "a pickle or zip archive"),
        (b"\n<!DOCTYPE html><title>Log in</title>", "a web page came"),
        (b"", "the file is empty"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, message):
    with file_server(Behaviour(content)) as url, pytest.raises(UserError, match=message):
        fetch(url, tmp_path, hashlib.sha256(content).hexdigest())
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("file:///etc/passwd", "write https://HOST/NAME.ckpt"),
        ("s3://bucket/net.ckpt", "write https://HOST/NAME.ckpt"),
        ("https:///net.ckpt", "write https://HOST/NAME.ckpt"),
        ("https://[broken/net.ckpt", "write https://HOST/NAME.ckpt"),
        ("https://me:secret@host/net.ckpt", "a password does not belong in the address"),
        ("https://host/net.pth", "never a pickle"),
        ("https://host/net.ckpt.pkl", "never a pickle"),
        ("https://host/", "never a pickle"),
        ("https://host/net.ckpt#sha256=12", "is no checksum"),
        ("https://host/net.ckpt#md5=12", "is no checksum"),
    ],
)
def test_addresses_that_are_not_usable(tmp_path, value, message):
    with pytest.raises(UserError, match=message) as caught:
        local_file(value, "pretrained_backbone", str(tmp_path))
    assert str(caught.value).startswith("pretrained_backbone: ") and "secret" not in str(caught.value)
    assert left_over(tmp_path) == []


def test_names_of_addresses():
    address = parse_address("https://host/a%2F..%2Fb/../n%20et.ckpt?token=abc", "pretrained")
    assert "/" not in address.kept_name and address.kept_name.endswith(".ckpt")
    assert "token" not in str(address) and "abc" not in str(address)
    other = parse_address("https://host/n%20et.ckpt?token=abd", "pretrained")
    assert other.kept_name != address.kept_name
    assert ending_of("https://host/net.onnx?x=.ckpt#sha256=00") == ".onnx" == ending_of("a/b.ONNX")


DISK = """
import resource, signal, sys
from src.remote.download import local_file
from src.base.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    local_file(sys.argv[1], "pretrained", sys.argv[2])
except UserError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    """The kernel refuses to write more: here by a limit, on a full disk by ENOSPC; the same path in the code."""
    with file_server(Behaviour(CONTENT)) as url:
        words = [sys.executable, "-c", DISK, f"{url}/net.ckpt", str(tmp_path)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "cannot be written to" in done.stdout
        and "free disk space or choose another download_path" in done.stdout
    )
    assert left_over(tmp_path) == []


def test_too_little_space_is_told_before_the_download(tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with (
        file_server(Behaviour(CONTENT)) as url,
        pytest.raises(UserError, match="300001 bytes to download, 1000 are free"),
    ):
        fetch(url, tmp_path)
    assert f"net-{SHA[:12]}.ckpt" not in left_over(tmp_path)


TWO = """import sys
from src.remote.download import local_file
print(local_file(sys.argv[1], 'pretrained', sys.argv[2]))"""


def test_processes_of_a_host_share_one_download(tmp_path):
    behaviour = Behaviour(CONTENT * 30)
    sha = hashlib.sha256(behaviour.content).hexdigest()
    with file_server(behaviour) as url:
        words = [sys.executable, "-c", TWO, f"{url}/net.ckpt#sha256={sha}", str(tmp_path)]
        started = [subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        paths = {process.communicate(timeout=60)[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(behaviour.requests) == 1
    assert Path(paths.pop()).read_bytes() == behaviour.content and not paths


# ---------------------------------------------------------------- where it is used


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("net") / "net.ckpt"
    network = build_network(load_config(OPTIONS))
    save_checkpoint(network, path)
    return path.read_bytes(), {p.name: p.asnumpy().copy() for p in network.get_parameters()}


@pytest.mark.parametrize("option", ["pretrained_checkpoint", "pretrained_backbone"])
def test_training_starts_from_an_address(tmp_path, tiny_checkpoint, option, capsys):
    content, values = tiny_checkpoint
    tiles = write_tiles(tmp_path / "set", train=2, val=1)
    with file_server(Behaviour(content, break_after=[len(content) // 2])) as url:
        words = (f"--{option}={url}/net.ckpt#sha256={hashlib.sha256(content).hexdigest()}",)
        config = tiny_config(
            tiles, tmp_path / "out", *words, f"--download_path={tmp_path / 'kept'}", "--seed=9"
        )
        started = start_run(config, Runtime())
    loaded = [
        np.array_equal(parameter.asnumpy(), values[parameter.name])
        for parameter in started.parts.network.get_parameters()
        if option == "pretrained_checkpoint" or parameter.name.startswith("feature_map.backbone.")
    ]
    assert len(loaded) > 50 and all(loaded)
    log = next(started.folder.path.glob("*.log")).read_text()
    assert f"{len(loaded)} parameters matched" in log
    # A start is read before the run has a folder: the terminal alone hears of the download.
    assert "downloading to" in capsys.readouterr().out


def test_evaluation_opens_an_address(tmp_path, tiny_checkpoint):
    content, values = tiny_checkpoint
    with file_server(Behaviour(content)) as url:
        config = load_config(
            [*OPTIONS, f"--pretrained={url}/net.ckpt?x=.onnx", f"--download_path={tmp_path}"]
        )
        assert not runs_without_mindspore(config)
        backend, config = open_model(config)
    name = next(iter(values))
    found = {p.name: p.asnumpy() for p in backend.network.get_parameters()}
    assert np.array_equal(found[name], values[name])
    assert Path(config.pretrained).parent == tmp_path
    assert runs_without_mindspore(load_config(["--pretrained=https://host/net.onnx#sha256=" + SHA]))


def test_a_server_of_one_byte_a_connection_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_ATTEMPTS", 10, raising=False)
    behaviour = Behaviour(CONTENT, break_after=[1] * 60)
    with file_server(behaviour) as url, pytest.raises(UserError, match="cannot be downloaded"):
        fetch(url, tmp_path)
    assert len(behaviour.requests) == 10


def test_a_download_without_length_ends_at_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", 100_000, raising=False)
    for chunked in (True, False):
        with (
            file_server(Behaviour(CONTENT, chunked=chunked)) as url,
            pytest.raises(UserError, match="more than 100000"),
        ):
            fetch(url, tmp_path)
        assert not [path for path in tmp_path.rglob("*.part") if path.is_file()]


def test_a_download_that_trickles_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PACE_SECONDS", 0.0)
    monkeypatch.setattr("src.remote.pace.SLOWEST", 10**12)
    behaviour = Behaviour(CONTENT, break_after=[1000] * 9)
    with file_server(behaviour) as url, pytest.raises(UserError, match="slower than"):
        fetch(url, tmp_path)
    assert len(behaviour.requests) == 3


@pytest.mark.parametrize("place", ["http://[::1/", "http://[zz]/a.ckpt"])
def test_a_redirect_to_no_address_is_a_line(tmp_path, place):
    behaviour = Behaviour(CONTENT, statuses=[302], location=place)
    with file_server(behaviour) as url, pytest.raises(UserError, match="is redirected to"):
        fetch(url, tmp_path)


def test_letters_of_other_scripts_in_a_path(tmp_path):
    behaviour = Behaviour(CONTENT)
    with file_server(behaviour) as url:
        path = download.local_file(f"{url}/größe 模型.ckpt", "pretrained", str(tmp_path))
    assert path.read_bytes() == CONTENT
    assert behaviour.requests[0][0] == "/gr%C3%B6%C3%9Fe%20%E6%A8%A1%E5%9E%8B.ckpt"


def test_a_content_length_of_no_digits_is_none():
    class Response:
        headers = {"Content-Length": "²"}
        status = 200

    assert download._extent(Response, 0, None) == (0, None)
