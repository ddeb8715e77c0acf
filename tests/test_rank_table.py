"""Rank tables: the documented format, merging, and wrong input refused by name."""

import copy
import json
import stat

import pytest

from src.base.errors import UserError
from src.commands import hccl_tools, merge_hccl, ranks_of_host
from src.runtime.rank_table import parse_device_range, read_rank_table


def documented(server_id, cards, first_rank=0, subnet=100):
    """A server's entry in the format of HCCL's documentation."""
    return {
        "server_id": server_id,
        "device": [
            {
                "device_id": str(card),
                "device_ip": f"192.168.{subnet}.{101 + card}",
                "rank_id": str(first_rank + k),
            }
            for k, card in enumerate(cards)
        ],
        "host_nic_ip": "reserve",
    }


def table_of(*servers):
    return {
        "version": "1.0",
        "server_count": str(len(servers)),
        "server_list": list(servers),
        "status": "completed",
    }


def hccn_conf(tmp_path, subnet=100, cards=range(8), name="hccn.conf"):
    path = tmp_path / name
    path.write_text(
        "# cards\n"
        + "".join(f"address_{c}=192.168.{subnet}.{101 + c}\nnetmask_{c}=255.255.255.0\n" for c in cards)
    )
    return path


def make(tmp_path, *words, conf=None):
    conf = conf or hccn_conf(tmp_path)
    return hccl_tools.main(
        [*words, f"--hccn_conf={conf}", "--hccn_tool=no_such_tool", f"--out_dir={tmp_path}"]
    )


@pytest.mark.parametrize("interval,cards", [("[0,8)", range(8)), ("[4,8)", range(4, 8)), ("[0,1)", [0])])
def test_one_server(tmp_path, interval, cards):
    assert make(tmp_path, "--device_num", interval, "--server_ip=10.0.0.1") == 0
    name = f"hccl_{len(cards)}p_{''.join(map(str, cards))}_10.0.0.1.json"
    assert json.loads((tmp_path / name).read_text()) == table_of(documented("10.0.0.1", cards))


def test_visible_devices_rename_the_cards(tmp_path):
    assert make(tmp_path, "--device_num=[0,2)", "--visible_devices=5,3,1", "--server_ip=10.0.0.1") == 0
    assert json.loads((tmp_path / "hccl_2p_53_10.0.0.1.json").read_text()) == table_of(
        documented("10.0.0.1", [5, 3])
    )


def test_hccn_tool_is_preferred(tmp_path):
    tool = tmp_path / "hccn_tool"
    tool.write_text('#!/bin/sh\necho "ipaddr:172.16.0.$2"\necho "netmask:255.255.0.0"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    words = ["--device_num=[1,3)", "--server_ip=10.0.0.9", f"--hccn_tool={tool}", f"--out_dir={tmp_path}"]
    assert hccl_tools.main(words) == 0
    devices = json.loads((tmp_path / "hccl_2p_12_10.0.0.9.json").read_text())["server_list"][0]["device"]
    assert [device["device_ip"] for device in devices] == ["172.16.0.1", "172.16.0.2"]


def test_two_servers_merged(tmp_path):
    for number in (1, 2):
        conf = hccn_conf(tmp_path, subnet=number)
        assert make(tmp_path, f"--server_ip=10.0.0.{number}", conf=conf) == 0
    paths = [str(tmp_path / f"hccl_8p_01234567_10.0.0.{number}.json") for number in (1, 2)]
    assert merge_hccl.main([*paths, f"--out_dir={tmp_path}"]) == 0
    expected = table_of(documented("10.0.0.1", range(8), 0, 1), documented("10.0.0.2", range(8), 8, 2))
    assert json.loads((tmp_path / "hccl_2s_16p.json").read_text()) == expected
    assert read_rank_table(tmp_path / "hccl_2s_16p.json").rank_count == 16


def test_a_server_twice_is_not_merged(tmp_path, capsys):
    make(tmp_path, "--server_ip=10.0.0.1")
    path = str(tmp_path / "hccl_8p_01234567_10.0.0.1.json")
    assert merge_hccl.main([path, path, f"--out_dir={tmp_path}"]) == 2
    assert "server_id 10.0.0.1 is a duplicate" in capsys.readouterr().err


def test_ranks_of_this_host(tmp_path, capsys):
    table = table_of(documented("10.0.0.1", range(2), 0, 1), documented("10.0.0.2", [4, 5, 6], 2, 2))
    (tmp_path / "t.json").write_text(json.dumps(table))
    assert ranks_of_host.main([str(tmp_path / "t.json"), "--server_ip=10.0.0.2"]) == 0
    assert capsys.readouterr().out == "2 4\n3 5\n4 6\ntotal 5\n"
    assert ranks_of_host.main([str(tmp_path / "t.json"), "--server_ip=10.0.0.7"]) == 2
    assert "10.0.0.7" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words,named",
    [
        (["--device_num=0-8"], "not of the form"),
        (["--device_num=[4,4)"], "not empty"),
        (["--device_num=[0,9)"], "within [0,8)"),
        (["--visible_devices=0,0,1"], "device 0 is a duplicate"),
        (["--visible_devices=0,9"], "device 9"),
        (["--visible_devices=a"], "card numbers"),
        (["--device_num=[0,4)", "--visible_devices=1,2"], "asks for 4 cards"),
    ],
)
def test_wrong_options_are_named(tmp_path, capsys, words, named):
    assert make(tmp_path, *words, "--server_ip=10.0.0.1") == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


def test_missing_and_wrong_addresses_are_named(tmp_path, capsys):
    assert make(tmp_path, "--server_ip=1.1.1.1", conf=hccn_conf(tmp_path, cards=[0, 1, 3])) == 2
    assert "device 2 has no address" in capsys.readouterr().err
    (tmp_path / "bad.conf").write_text("address_0=300.1.1.1\n")
    assert make(tmp_path, "--device_num=[0,1)", "--server_ip=1.1.1.1", conf=tmp_path / "bad.conf") == 2
    assert "300.1.1.1" in capsys.readouterr().err
    (tmp_path / "twice.conf").write_text("address_0=1.1.1.1\naddress_0=1.1.1.2\n")
    assert make(tmp_path, "--server_ip=1.1.1.1", conf=tmp_path / "twice.conf") == 2
    assert "duplicate address_0" in capsys.readouterr().err
    assert make(tmp_path, "--server_ip=1.1.1.1", conf=tmp_path / "none.conf") == 2
    assert "none.conf" in capsys.readouterr().err


GOOD = table_of(documented("a", range(2)), documented("b", range(2), 2, 7))


@pytest.mark.parametrize(
    "place,value,named",
    [
        (("version",), "2.0", "version is '2.0'"),
        (("status",), "initializing", "status is 'initializing'"),
        (("server_count",), "3", "server_count is '3', it lists 2"),
        (("server_list",), None, "'server_list' is missing"),
        (("server_list", 0, "device", 0, "rank_id"), "9", "rank_id 0 is missing"),
        (("server_list", 0, "device", 0, "rank_id"), "1", "rank_id 1 is a duplicate"),
        (("server_list", 0, "device", 0, "rank_id"), 0, "no number in quotes"),
        (("server_list", 0, "device", 1, "device_id"), "0", "device_id 0 is a duplicate"),
        (
            ("server_list", 0, "device", 1, "device_ip"),
            "192.168.7.101",
            "device_ip 192.168.7.101 is a duplicate",
        ),
        (("server_list", 0, "device", 1, "device_ip"), "x", "device_ip 'x' is no address"),
        (("server_list", 1, "server_id"), "a", "server_id a is a duplicate"),
        (("server_list", 1), {}, "a server lacks"),
    ],
)
def test_wrong_tables_are_named(tmp_path, place, value, named):
    table = copy.deepcopy(GOOD)
    entry = table
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    (tmp_path / "t.json").write_text(json.dumps(table))
    with pytest.raises(UserError) as caught:
        read_rank_table(tmp_path / "t.json")
    assert named in str(caught.value) and "t.json" in str(caught.value)


def test_not_json(tmp_path):
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match="no valid JSON"):
        read_rank_table(tmp_path / "t.json")
    with pytest.raises(UserError, match=r"none\.json"):
        read_rank_table(tmp_path / "none.json")
    assert parse_device_range(" [ 2 , 5 ) ") == [2, 3, 4]
