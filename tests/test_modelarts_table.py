"""ModelArts' rank table: a folder, another format, perhaps not complete yet; what a process makes of it."""

import copy
import json
import os
import threading
from pathlib import Path

import pytest

from src.base.errors import UserError
from src.commands import ranks_of_host
from src.runtime import rank_table
from src.runtime.rank_table import TABLE_VARIABLES, adopt_rank_table, read_rank_table
from tests.test_rank_table import documented, table_of

# The documented example, with a second pod in front of the first.
DOCUMENT = {
    "group_count": "1",
    "group_list": [
        {
            "device_count": "3",
            "group_name": "job-trainjob",
            "instance_count": "2",
            "instance_list": [
                {
                    "devices": [{"device_id": "4", "device_ip": "192.1.10.7"}],
                    "pod_name": "jobxxxxxxxx-job-trainjob-1",
                    "server_id": "192.168.0.31",
                },
                {
                    "devices": [
                        {"device_id": "0", "device_ip": "192.1.10.254"},
                        {"device_id": "1", "device_ip": "192.1.11.254"},
                    ],
                    "pod_name": "jobxxxxxxxx-job-trainjob-0",
                    "server_id": "192.168.0.25",
                },
            ],
        }
    ],
    "status": "completed",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in (*TABLE_VARIABLES, "RANK_ID", "RANK_SIZE", "MS_ROLE", "MA_CURRENT_INSTANCE_NAME"):
        monkeypatch.setenv(name, "")  # so that what is set is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(rank_table, "POLL_SECONDS", 0.02)


def folder_of(tmp_path, document=DOCUMENT) -> Path:
    (tmp_path / "jobstart_hccl.json").write_text(json.dumps(document))
    return tmp_path


def test_ranks_count_over_the_pods_by_their_number(tmp_path):
    table = read_rank_table(folder_of(tmp_path))
    assert [server.server_id for server in table.servers] == ["192.168.0.25", "192.168.0.31"]
    cards = [(d.rank_id, d.device_id, d.device_ip) for server in table.servers for d in server.devices]
    assert cards == [(0, 0, "192.1.10.254"), (1, 1, "192.1.11.254"), (2, 4, "192.1.10.7")]


def test_table_that_is_completed_while_it_is_waited_for(tmp_path):
    folder_of(tmp_path, {"status": "initializing"})
    timer = threading.Timer(0.15, folder_of, [tmp_path])
    timer.start()
    assert read_rank_table(tmp_path, wait=30).rank_count == 3
    timer.join()


@pytest.mark.parametrize("text", [None, '{"status": "initializing"}', '{"status": "compl'])
def test_table_that_is_never_completed(tmp_path, text):
    if text:
        (tmp_path / "jobstart_hccl.json").write_text(text)
    with pytest.raises(UserError, match=r"jobstart_hccl.json: .* after 0 s$"):
        read_rank_table(tmp_path, wait=0.1)


def changed(change):
    document = copy.deepcopy(DOCUMENT)
    change(document["group_list"])
    return document


@pytest.mark.parametrize(
    "change,named",
    [
        (lambda groups: groups.append(groups[0]), "one group"),
        (lambda groups: groups[0].pop("instance_list"), "one group"),
        (lambda groups: groups[0]["instance_list"][0].pop("devices"), "list of devices"),
        (lambda groups: groups[0]["instance_list"][0].pop("server_id"), "server_id"),
        (lambda groups: groups[0]["instance_list"][0]["devices"][0].update(device_id=4), "device_id 4"),
        (
            lambda groups: groups[0]["instance_list"][0]["devices"][0].update(device_ip="192.1.10.254"),
            "duplicate",
        ),
    ],
)
def test_wrong_table_is_named(tmp_path, change, named):
    with pytest.raises(UserError, match=named):
        read_rank_table(folder_of(tmp_path, changed(change)))


def test_launcher_is_told_all(tmp_path, capsys, monkeypatch):
    """The second pod, known by its name, as its address is one of the cluster that this machine has not."""
    monkeypatch.setenv("MA_CURRENT_INSTANCE_NAME", "jobxxxxxxxx-job-trainjob-1")
    out = tmp_path / "out"
    out.mkdir()
    assert ranks_of_host.main([str(folder_of(tmp_path)), "--launch", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == ["2 4", "total 3", f"table {out / 'rank_table.json'}", "node 1 192.168.0.25"]
    assert printed[4] == "msrun servers have 2 and 1 cards"
    written = read_rank_table(out / "rank_table.json")
    assert [len(server.devices) for server in written.servers] == [2, 1] and written.rank_count == 3


@pytest.mark.parametrize(
    "servers,said",
    [
        ([("10.0.0.1", range(8), 0), ("10.0.0.2", range(8), 8)], "fits"),
        ([("10.0.0.1", [4, 5], 0)], "rank 0 is on card 4, msrun takes card 0"),
        ([("10.0.0.2", [0, 1], 2), ("10.0.0.1", [0, 1], 0)], "rank 2 is where msrun starts rank 0"),
    ],
)
def test_what_msrun_can_start(tmp_path, capsys, servers, said):
    path = tmp_path / "table.json"
    entries = [
        documented(server, cards, first, number) for number, (server, cards, first) in enumerate(servers)
    ]
    path.write_text(json.dumps(table_of(*entries)))
    assert ranks_of_host.main([str(path), "--server_ip=10.0.0.1", f"--launch={tmp_path}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert f"table {path}" in printed and printed[-1] == f"msrun {said}"


def test_process_of_the_preset_start_keeps_its_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK_TABLE_FILE", str(folder_of(tmp_path)))
    monkeypatch.setenv("RANK_ID", "2")
    adopt_rank_table()
    named = os.environ["RANK_TABLE_FILE"]
    assert named == os.environ["MINDSPORE_HCCL_CONFIG_PATH"] and Path(named).is_file()
    assert read_rank_table(Path(named)).rank_count == 3
    assert (os.environ["RANK_ID"], os.environ["RANK_SIZE"]) == ("2", "3")


def test_table_that_hccl_reads_stays(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table_of(documented("10.0.0.1", [0]))))
    monkeypatch.setenv("MINDSPORE_HCCL_CONFIG_PATH", str(path))
    adopt_rank_table()
    assert [os.environ[name] for name in TABLE_VARIABLES] == [str(path), str(path)]
    assert (os.environ["RANK_ID"], os.environ["RANK_SIZE"]) == ("0", "1")  # its only card is this process's


def test_one_process_of_several_ranks_is_told_how_to_start(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK_TABLE_FILE", str(folder_of(tmp_path)))
    with pytest.raises(UserError, match=r"3 ranks.*run_distribute_train.sh"):
        adopt_rank_table()


def test_msruns_workers_do_not_look_at_it(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK_TABLE_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    adopt_rank_table()
