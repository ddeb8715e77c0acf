"""HCCL rank tables: which card of which server has which rank. Read, checked, made and merged.

The format is the one HCCL reads (version 1.0): every value is a string, ranks count from 0 without gaps over
the servers in their order. ModelArts writes another one for custom images (`group_list`), into a folder, and may
not have completed it when the job starts
(https://support.huaweicloud.com/develop-modelarts/develop-modelarts-1416.html): it is waited for and converted.
"""

import ipaddress
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ..base.atomic import write_json
from ..base.errors import UserError
from ..base.text_file import read_text

CARDS_A_SERVER = 8
TABLE_VARIABLES = ("RANK_TABLE_FILE", "MINDSPORE_HCCL_CONFIG_PATH")
NAMES_IN_FOLDER = ("jobstart_hccl.json", "hccl.json")  # ModelArts', and that of the cluster's scheduler
WAIT_SECONDS = 600  # for a table that its writer has not completed
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Device:
    """One card: its number on the server, the address of its network port, its rank in the job."""

    device_id: int
    device_ip: str
    rank_id: int


@dataclass(frozen=True)
class Server:
    """One host with its cards, ordered by rank; `pod` is its name in a `group_list`."""

    server_id: str
    devices: tuple[Device, ...]
    pod: str = ""


@dataclass(frozen=True)
class RankTable:
    """All cards of a job."""

    servers: tuple[Server, ...]

    @property
    def rank_count(self) -> int:
        """Number of ranks of the job."""
        return sum(len(server.devices) for server in self.servers)

    def server(self, address: str = "", own_addresses: Sequence[str] = ()) -> Server:
        """The server of an address; without one, the only server or the one of this host's addresses.

        Raises:
            UserError: none or no single one fits.
        """
        if not address and len(self.servers) == 1:
            return self.servers[0]
        wanted = [address] if address else list(own_addresses)
        found = [server for server in self.servers if {server.server_id, server.pod or None} & {*wanted}]
        if len(found) == 1:
            return found[0]
        known = ", ".join(server.server_id for server in self.servers)
        raise UserError(
            f"rank table: this host ({', '.join(wanted) or 'address unknown'}) is not one of its servers "
            f"({known}); set SERVER_IP to this host's server_id"
        )

    def to_json(self) -> dict:
        """The document that HCCL reads."""
        return {
            "version": "1.0",
            "server_count": str(len(self.servers)),
            "server_list": [
                {
                    "server_id": server.server_id,
                    "device": [
                        {
                            "device_id": str(device.device_id),
                            "device_ip": device.device_ip,
                            "rank_id": str(device.rank_id),
                        }
                        for device in server.devices
                    ],
                    "host_nic_ip": "reserve",
                }
                for server in self.servers
            ],
            "status": "completed",
        }


def read_rank_table(path: Path, wait: float = 0.0) -> RankTable:
    """Read and check a rank table, of either format, or the one in a folder.

    Args:
        path: the file, or the folder that ModelArts names.
        wait: seconds in which its writer may complete it.

    Raises:
        UserError: no JSON, a missing key, a gap or duplicate among ranks, cards or addresses; names it.
    """
    path, document = _completed(Path(path), wait)
    if "group_list" in document:
        servers = _read_groups(document, path)
    else:
        if not isinstance(document.get("server_list"), list):
            raise UserError(f"{path}: no rank table: 'server_list' is missing (version 1.0 is read)")
        if document.get("version") != "1.0":
            raise UserError(f"{path}: version is {document.get('version')!r}, expected '1.0'")
        servers = tuple(_read_server(entry, path) for entry in document["server_list"])
        if document.get("server_count") != str(len(servers)):
            raise UserError(
                f"{path}: server_count is {document.get('server_count')!r}, it lists {len(servers)}"
            )
    table = RankTable(servers)
    check_rank_table(table, str(path))
    return table


def _completed(path: Path, wait: float) -> tuple[Path, dict]:
    """The table's file and its content, once it is there and its status says that it is complete."""
    deadline = time.monotonic() + wait
    while True:
        file = _file_in(path) if path.is_dir() else path
        try:
            document = _load(file)
            status = document.get("status")
            if status == "completed":
                return file, document
            problem, is_unfinished = f"status is {status!r}, expected 'completed'", "status" in document
        except UserError as error:
            problem, is_unfinished = str(error).removeprefix(f"{file}: "), path.is_dir()
        if not is_unfinished or time.monotonic() >= deadline:
            waited = f" after {wait:.0f} s" if wait and is_unfinished else ""
            raise UserError(f"{file}: {problem}{waited}")
        time.sleep(POLL_SECONDS)


def _file_in(folder: Path) -> Path:
    return next(
        (file for name in NAMES_IN_FOLDER if (file := folder / name).exists()), folder / NAMES_IN_FOLDER[0]
    )


def _load(path: Path) -> dict:
    try:
        document = json.loads(read_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no valid JSON") from error
    if not isinstance(document, dict) or not {"status", "server_list", "group_list"} & document.keys():
        raise UserError(f"{path}: no rank table: 'server_list' is missing (version 1.0 is read)")
    return document


def _read_groups(document: dict, path: Path) -> tuple[Server, ...]:
    """The servers of ModelArts' form: one group, its pods by their number; ranks count over their cards."""
    groups = document["group_list"]
    instances = groups[0].get("instance_list") if _is_list_of_dicts(groups) and len(groups) == 1 else None
    if not _is_list_of_dicts(instances):
        raise UserError(f"{path}: group_list: expected one group with an instance_list")
    servers, rank = [], 0
    for instance in sorted(instances, key=_pod_number):
        devices = instance.get("devices")
        if not _is_list_of_dicts(devices):
            raise UserError(f"{path}: an instance lacks its list of devices")
        ranked = [{**device, "rank_id": str(rank + number)} for number, device in enumerate(devices)]
        rank += len(ranked)
        server = _read_server({"server_id": instance.get("server_id"), "device": ranked}, path)
        servers.append(Server(server.server_id, server.devices, str(instance.get("pod_name") or "")))
    return tuple(servers)


def _is_list_of_dicts(value: object) -> TypeGuard[list[dict]]:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _pod_number(instance: dict) -> int:
    """The number behind the last hyphen of a pod's name, by which ModelArts counts its nodes."""
    match = re.search(r"-(\d{1,6})$", str(instance.get("pod_name")))
    return int(match[1]) if match else 0


def adopt_rank_table() -> None:
    """Make the table that the environment names one that HCCL reads: waited for, converted, ranks known.

    A process that a launcher started has its RANK_ID. Without one, a table of one card is this process's.

    Raises:
        UserError: the table stays incomplete, or it has several ranks and no launcher gave this process one.
    """
    named = next((os.environ[name] for name in TABLE_VARIABLES if os.environ.get(name)), "")
    if not named or os.environ.get("MS_ROLE"):
        return
    table = read_rank_table(Path(named), WAIT_SECONDS)
    if not os.environ.get("RANK_ID"):
        if table.rank_count > 1:
            raise UserError(
                f"RANK_TABLE_FILE: {named} has {table.rank_count} ranks, and this process was started alone; "
                "start with scripts/run_distribute_train.sh DATASET_PATH PRETRAINED_BACKBONE "
                f"{named}, or pass --is_distributed=0"
            )
        os.environ["RANK_ID"] = "0"
    os.environ.setdefault("RANK_SIZE", str(table.rank_count))
    if not is_for_hccl(Path(named)):
        named = str(Path(tempfile.mkdtemp(prefix="rank-table-")) / "rank_table.json")
        write_rank_table(table, Path(named))
    for name in TABLE_VARIABLES:
        os.environ[name] = named


def is_for_hccl(path: Path) -> bool:
    """Whether HCCL reads this file, a table that has been read, as it is."""
    return path.is_file() and "server_list" in _load(path)


def _read_server(entry, path) -> Server:
    devices = entry.get("device") if isinstance(entry, dict) else None
    server_id = entry.get("server_id") if isinstance(entry, dict) else None
    if not isinstance(server_id, str) or not server_id or not isinstance(devices, list):
        raise UserError(f"{path}: a server lacks its server_id or its list of device")
    read = []
    for device in devices:
        where = f"{path}: server {server_id}"
        numbers = {}
        for key in ("device_id", "rank_id"):
            value = device.get(key) if isinstance(device, dict) else None
            if not isinstance(value, str) or not re.fullmatch(r"\d{1,6}", value):
                raise UserError(f"{where}: {key} {value!r} is no number in quotes")
            numbers[key] = int(value)
        read.append(
            Device(numbers["device_id"], _checked_ip(device.get("device_ip"), where), numbers["rank_id"])
        )
    return Server(server_id, tuple(sorted(read, key=lambda device: device.rank_id)))


def check_rank_table(table: RankTable, where: str) -> None:
    """Refuse gaps and duplicates (UserError names them)."""
    _refuse_twice([server.server_id for server in table.servers], f"{where}: server_id")
    devices = [device for server in table.servers for device in server.devices]
    if not devices:
        raise UserError(f"{where}: no device in it")
    _refuse_twice([device.device_ip for device in devices], f"{where}: device_ip")
    for server in table.servers:
        _refuse_twice(
            [device.device_id for device in server.devices], f"{where}: {server.server_id}: device_id"
        )
    ranks = [device.rank_id for device in devices]
    _refuse_twice(ranks, f"{where}: rank_id")
    missing = sorted(set(range(len(ranks))) - set(ranks))
    if missing:
        raise UserError(f"{where}: rank_id {missing[0]} is missing; ranks go from 0 to {len(ranks) - 1}")


def _refuse_twice(values: list, what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"{what} {value} is a duplicate")


def _checked_ip(value, where: str) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise UserError(f"{where}: device_ip {value!r} is no address") from None


def make_rank_table(server_id: str, device_ids: Sequence[int], device_ips: dict[int, str]) -> RankTable:
    """The table of one server: its cards get ranks 0, 1, ... in their order.

    Raises:
        UserError: a card without an address or with a wrong one.
    """
    devices = []
    for rank, device_id in enumerate(device_ids):
        if device_id not in device_ips:
            raise UserError(f"device {device_id} has no address in hccn.conf or from hccn_tool")
        devices.append(Device(device_id, _checked_ip(device_ips[device_id], f"device {device_id}"), rank))
    table = RankTable((Server(server_id, tuple(devices)),))
    check_rank_table(table, "rank table")
    return table


def merge_rank_tables(tables: Sequence[RankTable]) -> RankTable:
    """One table of several servers; ranks go on from server to server in the given order.

    Raises:
        UserError: a duplicate server or address.
    """
    servers, rank = [], 0
    for table in tables:
        for server in table.servers:
            devices = []
            for device in server.devices:
                devices.append(Device(device.device_id, device.device_ip, rank))
                rank += 1
            servers.append(Server(server.server_id, tuple(devices)))
    merged = RankTable(tuple(servers))
    check_rank_table(merged, "merged rank table")
    return merged


def parse_device_range(text: str) -> list[int]:
    """Cards of `[first,last)`, as `"[0,8)"`.

    Raises:
        UserError: another form, or cards that a server does not have.
    """
    match = re.fullmatch(r"\s*\[\s*(\d+)\s*,\s*(\d+)\s*\)\s*", text)
    if not match:
        raise UserError(
            f'--device_num: {text!r} is not of the form "[0,8)": from the first card to before the last'
        )
    first, end = int(match[1]), int(match[2])
    if first >= end or end > CARDS_A_SERVER:
        raise UserError(f"--device_num: {text} must be within [0,{CARDS_A_SERVER}) and not empty")
    return list(range(first, end))


def parse_device_list(text: str) -> list[int]:
    """Cards of a list as `0,2,3`.

    Raises:
        UserError: not numbers, a card twice, or one that a server does not have.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d+", word) for word in words):
        raise UserError(f"--visible_devices: {text!r} must be card numbers separated by commas")
    cards = [int(word) for word in words]
    _refuse_twice(cards, "--visible_devices: device")
    if max(cards) >= CARDS_A_SERVER:
        raise UserError(f"--visible_devices: device {max(cards)}, a server has 0 to {CARDS_A_SERVER - 1}")
    return cards


def read_hccn_conf(path: Path) -> dict[int, str]:
    """Addresses of the cards from lines `address_0=192.168.100.101` of hccn.conf.

    Raises:
        UserError: the file cannot be read or gives a card twice.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    found: dict[int, str] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"\s*address_(\d+)\s*=\s*(\S+)\s*", line)
        if match:
            card = int(match[1])
            if card in found:
                raise UserError(f"{path}: duplicate address_{card}")
            found[card] = match[2]
    return found


def write_rank_table(table: RankTable, path: Path) -> None:
    """Write a table, whole or not at all (UserError where the folder cannot be written to)."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it or give another")
    write_json(path, table.to_json(), indent=4)
