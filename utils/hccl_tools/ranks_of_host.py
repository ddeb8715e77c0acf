"""Print the cards of this host in a rank table: one line `rank_id device_id` each, then `total N`."""

import argparse
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.errors import UserError
from src.rank_table import read_rank_table
from utils.hccl_tools.hccl_tools import address_of_host


def own_addresses() -> list[str]:
    """Addresses by which a table may name this host."""
    found = {socket.gethostname()}
    try:
        found.update(socket.gethostbyname_ex(socket.gethostname())[2])
        found.add(address_of_host())
    except (OSError, UserError):
        pass
    return sorted(found)


def main(argv: list[str] | None = None) -> int:
    """Parse the options and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="rank table")
    parser.add_argument("--server_ip", default="", help="server_id of this host; empty: found")
    args = parser.parse_args(argv)
    try:
        table = read_rank_table(args.table)
        for device in table.server(args.server_ip, own_addresses()).devices:
            print(device.rank_id, device.device_id)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("total", table.rank_count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
