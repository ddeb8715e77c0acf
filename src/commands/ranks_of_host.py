"""Print the cards of this host in a rank table: one line `rank_id device_id` each, then `total N`.

With --launch FOLDER also what a launcher needs: `table FILE` (converted into FOLDER where HCCL would not read it),
`node INDEX MASTER` (this host's place among the servers, and the first one's server_id), and `msrun fits`, or why not.
"""

import argparse
import contextlib
import ipaddress
import os
import socket
from pathlib import Path

from ..base.errors import UserError, reports_mistakes
from ..runtime.rank_table import WAIT_SECONDS, RankTable, is_for_hccl, read_rank_table, write_rank_table
from .hccl_tools import address_of_host


def is_own_address(address: str) -> bool:
    """Does a network port of this host have this address? Only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def own_names(table: RankTable) -> list[str]:
    """Names and addresses by which the table may mean this host, all its network ports included."""
    found = {socket.gethostname(), os.environ.get("MA_CURRENT_INSTANCE_NAME", "")} - {
        ""
    }  # the second is a pod's
    with contextlib.suppress(UserError):  # not on any network; its name may still be in the table
        found.add(address_of_host())
    for server in table.servers:
        try:
            ipaddress.ip_address(server.server_id)
        except ValueError:
            continue  # a name: never looked up here
        if is_own_address(server.server_id):
            found.add(server.server_id)
    return sorted(found)


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options and print; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="rank table, or ModelArts' folder of it")
    parser.add_argument("--server_ip", default="", help="server_id of this host; empty: found")
    parser.add_argument("--launch", type=Path, metavar="FOLDER", help="print what a launcher needs too")
    args = parser.parse_args(argv)
    table = read_rank_table(args.table, WAIT_SECONDS if args.launch else 0)
    server = table.server(args.server_ip, own_names(table))
    for device in server.devices:
        print(device.rank_id, device.device_id)
    print("total", table.rank_count)
    if args.launch:
        path = args.table.absolute()
        if not is_for_hccl(path):
            path = args.launch.absolute() / "rank_table.json"
            write_rank_table(table, path)
        print("table", path)
        print("node", table.servers.index(server), table.servers[0].server_id)
        print("msrun", misfit(table) or "fits")
    return 0


def misfit(table: RankTable) -> str:
    """Why msrun cannot start the ranks of a table, empty where it can.

    It starts as many ranks on each host, one host after the other, on cards 0, 1, ... of each.
    """
    count = len(table.servers[0].devices)
    rank = 0
    for server in table.servers:
        if len(server.devices) != count:
            return f"servers have {count} and {len(server.devices)} cards"
        for card, device in enumerate(server.devices):
            if device.rank_id != rank:
                return f"rank {device.rank_id} is where msrun starts rank {rank}"
            if device.device_id != card:
                return f"rank {rank} is on card {device.device_id}, msrun takes card {card}"
            rank += 1
    return ""
