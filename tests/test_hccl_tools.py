"""Rank table tools as a user meets them: where addresses come from, card groups, who this host is, exit codes.

The format, merging and refused tables are tested in test_rank_table.py.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.base.errors import UserError
from src.commands import hccl_tools, merge_hccl, ranks_of_host
from src.runtime.rank_table import (
    make_rank_table,
    merge_rank_tables,
    parse_device_range,
    read_rank_table,
    write_rank_table,
)
from tests import ROOT
from tests.test_rank_table import documented, hccn_conf, table_of

TOOLS = ROOT / "utils" / "hccl_tools"


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def make(folder, *words, tool="no_such_tool", conf=None):
    conf = conf or hccn_conf(folder)
    return hccl_tools.main(
        ["--server_ip=10.0.0.1", f"--hccn_conf={conf}", f"--hccn_tool={tool}", f"--out_dir={folder}", *words]
    )


def addresses(path: Path) -> list[str]:
    return [device["device_ip"] for device in json.loads(path.read_text())["server_list"][0]["device"]]


def run(name: str, *words, cwd: Path):
    return subprocess.run(
        [sys.executable, TOOLS / name, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_scripts_make_merge_and_read_a_table(tmp_path):
    """As a user runs them, from a folder that is not the project's."""
    for number in (1, 2):
        conf = hccn_conf(tmp_path, subnet=number)
        words = ("--device_num", "[0,8)", "--server_ip", f"10.0.0.{number}")
        done = run("hccl_tools.py", *words, "--hccn_conf", conf, "--hccn_tool", "none", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    merged = run("merge_hccl.py", *sorted(tmp_path.glob("hccl_8p_01234567_*.json")), cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    expected = table_of(documented("10.0.0.1", range(8), 0, 1), documented("10.0.0.2", range(8), 8, 2))
    assert json.loads((tmp_path / "hccl_2s_16p.json").read_text()) == expected
    ranks = run("ranks_of_host.py", "hccl_2s_16p.json", "--server_ip", "10.0.0.2", cwd=tmp_path)
    assert ranks.stdout.splitlines() == [f"{8 + card} {card}" for card in range(8)] + ["total 16"]
    for name, words in {
        "hccl_tools.py": ["--device_num", "[0;8)"],
        "merge_hccl.py": ["none.json"],
        "ranks_of_host.py": ["none.json"],
    }.items():
        failed = run(name, *words, cwd=tmp_path)
        assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1), failed.stderr
        assert failed.stderr.startswith("error: ")


# -------------------------------------------------------------------- addresses of the cards


@pytest.mark.parametrize(
    "body", ["exit 1", "echo 'ipaddr:172.16.0.9' >&2; exit 1", "echo 'get ip failed'", "printf '\\377\\376'"]
)
def test_failing_tool_falls_back_to_the_file(tmp_path, body):
    assert make(tmp_path, "--device_num=[0,2)", tool=script(tmp_path / "tool", body)) == 0
    assert addresses(tmp_path / "hccl_2p_01_10.0.0.1.json") == ["192.168.100.101", "192.168.100.102"]


def test_tool_that_knows_some_cards_is_completed_by_the_file(tmp_path):
    tool = script(tmp_path / "tool", '[ "$2" = 1 ] && echo "ipaddr:172.16.0.1"')
    assert make(tmp_path, "--device_num=[0,2)", tool=tool) == 0
    assert addresses(tmp_path / "hccl_2p_01_10.0.0.1.json") == ["192.168.100.101", "172.16.0.1"]


def test_tool_among_those_of_the_driver(tmp_path, monkeypatch):
    script(tmp_path / "hccn_tool", 'echo "ipaddr:172.16.0.$2"')
    monkeypatch.setattr(hccl_tools, "TOOL_FOLDERS", (str(tmp_path / "none"), str(tmp_path)))
    monkeypatch.setenv("PATH", "/bin")
    assert make(tmp_path, "--device_num", "[1,2)", tool="hccn_tool") == 0
    assert addresses(tmp_path / "hccl_1p_1_10.0.0.1.json") == ["172.16.0.1"]


def test_tool_that_hangs_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(hccl_tools, "TOOL_SECONDS", 0.2)
    tool = script(tmp_path / "tool", "exec sleep 30")
    assert make(tmp_path, "--device_num=[0,1)", tool=tool) == 0
    assert addresses(tmp_path / "hccl_1p_0_10.0.0.1.json") == ["192.168.100.101"]


def test_tool_gets_words_not_a_shell_line(tmp_path):
    tool = script(tmp_path / "a tool; touch evil", f'echo "$#:$*" >> "{tmp_path}/seen"; echo ipaddr:1.1.1.$2')
    assert make(tmp_path, "--device_num=[4,6)", tool=tool) == 0
    assert (tmp_path / "seen").read_text() == "4:-i 4 -ip -g\n4:-i 5 -ip -g\n"


def test_no_address_anywhere_writes_nothing(tmp_path, capsys):
    tool = script(tmp_path / "tool", "exit 1")
    assert make(tmp_path, "--device_num=[0,1)", tool=tool, conf=tmp_path / "none.conf") == 2
    assert "device 0 has no address in hccn.conf or from hccn_tool" in capsys.readouterr().err
    assert not list(tmp_path.glob("hccl_*"))


# -------------------------------------------------------------------- cards and servers


@pytest.mark.parametrize("interval", ["[3,6)", "[0,5)", "[1,8)", "[2,5)"])
def test_interval_across_the_groups_is_refused(tmp_path, capsys, interval):
    assert make(tmp_path, f"--device_num={interval}") == 2
    error = capsys.readouterr().err
    assert f"{interval} crosses the groups" in error and error.count("\n") == 1
    # What the message tells works.
    words = error.split("use ")[1].replace('"', "").split()
    assert make(tmp_path, *words) == 0
    [path] = tmp_path.glob("hccl_*")
    found = [device.device_id for device in read_rank_table(path).servers[0].devices]
    assert found == parse_device_range(interval)
    # All cards visible is what holds without the option.
    assert make(tmp_path, f"--device_num={interval}", "--visible_devices=0,1,2,3,4,5,6,7") == 2


@pytest.mark.parametrize("interval", ["[0,8)", "[0,4)", "[4,8)", "[1,3)", "[7,8)"])
def test_interval_in_a_group_is_taken(tmp_path, interval):
    assert make(tmp_path, f"--device_num={interval}") == 0


@pytest.mark.parametrize("server", ["../x", "a/b", "a b", "-x", "x" * 64, "10.0.0.1\n"])
def test_server_that_is_no_name_is_refused(tmp_path, capsys, server):
    assert make(tmp_path, f"--server_ip={server}") == 2
    assert "--server_ip" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.parent.glob("*.json"))


@pytest.mark.parametrize("server", ["10.0.0.1", "fe80::1", "node_0", "worker-3.cluster"])
def test_server_by_address_or_name(tmp_path, server):
    assert make(tmp_path, f"--server_ip={server}", "--device_num=[0,1)") == 0
    assert read_rank_table(tmp_path / f"hccl_1p_0_{server}.json").servers[0].server_id == server


@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=5), data=st.data())
def test_merged_ranks_follow_the_order_given(sizes, data):
    """Ranks 0..n-1, server after server in any order of the files; each card keeps its address."""
    tables = [
        make_rank_table(f"10.0.0.{k}", range(size), {card: f"192.168.{k}.{card + 1}" for card in range(size)})
        for k, size in enumerate(sizes)
    ]
    order = data.draw(st.permutations(range(len(tables))))
    merged = merge_rank_tables([tables[k] for k in order])
    assert [server.server_id for server in merged.servers] == [f"10.0.0.{k}" for k in order]
    devices = [device for server in merged.servers for device in server.devices]
    assert [device.rank_id for device in devices] == list(range(sum(sizes)))
    assert [device.device_ip for device in devices] == [
        device.device_ip for k in order for device in tables[k].servers[0].devices
    ]
    # Merging what is merged changes nothing.
    assert merge_rank_tables([merged]) == merged


def test_merge_names_what_is_wrong_and_writes_nothing(tmp_path, capsys):
    for name, address in (("a", "192.168.1.1"), ("b", "192.168.1.1")):
        write_rank_table(make_rank_table(name, [0], {0: address}), tmp_path / f"{name}.json")
    old = json.loads((tmp_path / "a.json").read_text()) | {"version": "1.2"}
    (tmp_path / "old.json").write_text(json.dumps(old))
    (tmp_path / "cut.json").write_text((tmp_path / "a.json").read_text()[:40])
    for other, named in {
        "b.json": "device_ip 192.168.1.1 is a duplicate",
        "old.json": "old.json: version is '1.2'",
        "cut.json": "cut.json: no valid JSON",
        "none.json": "none.json: cannot be read",
    }.items():
        words = [str(tmp_path / "a.json"), str(tmp_path / other), f"--out_dir={tmp_path}"]
        assert merge_hccl.main(words) == 2
        error = capsys.readouterr().err
        assert named in error and error.count("\n") == 1
    assert not list(tmp_path.glob("hccl_*"))


@pytest.mark.parametrize("name", ["file", "missing", "missing/below"])
def test_folder_that_is_none_is_one_line(tmp_path, capsys, name):
    (tmp_path / "file").write_text("")
    assert make(tmp_path, f"--out_dir={tmp_path}/{name}") == 2
    error = capsys.readouterr().err
    assert f"{tmp_path}/{name}" in error and error.count("\n") == 1


# -------------------------------------------------------------------- who this host is


def two_servers(path: Path, first: str, second: str) -> Path:
    path.write_text(json.dumps(table_of(documented(first, [0], 0, 1), documented(second, [3], 1, 2))))
    return path


def test_host_found_by_the_address_of_a_port(tmp_path, capsys, monkeypatch):
    """127.0.0.1 stands for a port that neither the host's name nor the default route tells."""
    monkeypatch.setattr(socket, "gethostname", lambda: "name-in-no-register")
    monkeypatch.setattr(ranks_of_host, "address_of_host", lambda: "203.0.113.9")
    table = two_servers(tmp_path / "t.json", "203.0.113.1", "127.0.0.1")
    assert ranks_of_host.main([str(table)]) == 0
    assert capsys.readouterr().out == "1 3\ntotal 2\n"


def test_host_found_by_its_name(tmp_path, capsys, monkeypatch):
    def no_network():
        raise UserError("no network")

    monkeypatch.setattr(socket, "gethostname", lambda: "node_1")
    monkeypatch.setattr(ranks_of_host, "address_of_host", no_network)
    assert ranks_of_host.main([str(two_servers(tmp_path / "t.json", "node_0", "node_1"))]) == 0
    assert capsys.readouterr().out == "1 3\ntotal 2\n"


def test_host_that_is_not_in_the_table(tmp_path, capsys):
    assert ranks_of_host.main([str(two_servers(tmp_path / "t.json", "203.0.113.1", "2001:db8::1"))]) == 2
    error = capsys.readouterr().err
    assert "203.0.113.1" in error and "SERVER_IP" in error and error.count("\n") == 1


def test_address_without_a_default_route(monkeypatch):
    """A closed cluster: no route outwards, but the host's name has an address."""

    class NoRoute(socket.socket):
        def connect(self, address):
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(hccl_tools.socket, "socket", NoRoute)
    monkeypatch.setattr(
        hccl_tools.socket, "gethostbyname_ex", lambda name: (name, [], ["127.0.1.1", "10.9.8.7"])
    )
    assert hccl_tools.address_of_host() == "10.9.8.7"
    monkeypatch.setattr(hccl_tools.socket, "gethostbyname_ex", lambda name: (name, [], ["127.0.1.1"]))
    with pytest.raises(UserError, match="--server_ip"):
        hccl_tools.address_of_host()
