"""Print the cards of this host in a rank table: one line `rank_id device_id` each, then `total N`."""

import argparse
import contextlib
import ipaddress
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.errors import UserError, reports_mistakes
from src.rank_table import RankTable, read_rank_table
from utils.hccl_tools.hccl_tools import address_of_host


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
    found = {socket.gethostname()}
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="rank table")
    parser.add_argument("--server_ip", default="", help="server_id of this host; empty: found")
    args = parser.parse_args(argv)
    table = read_rank_table(args.table)
    for device in table.server(args.server_ip, own_names(table)).devices:
        print(device.rank_id, device.device_id)
    print("total", table.rank_count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
