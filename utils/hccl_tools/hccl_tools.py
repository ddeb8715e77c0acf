"""Make the HCCL rank table of this server: hccl_<n>p_<cards>_<server>.json.

Addresses of the cards come from hccn_tool, or from /etc/hccn.conf where there is none.
"""

import argparse
import shutil
import socket
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.errors import UserError
from src.rank_table import (
    make_rank_table,
    parse_device_list,
    parse_device_range,
    read_hccn_conf,
    write_rank_table,
)


def address_of_host() -> str:
    """This host's own address, as the others see it.

    Raises:
        UserError: it has none but the loopback's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation address: nothing is sent, the route is looked up
            return probe.getsockname()[0]
        except OSError:
            raise UserError("this host's address is not known; give it with --server_ip") from None


def addresses_by_tool(tool: str, cards: list[int]) -> dict[int, str]:
    """Addresses from `hccn_tool -i CARD -ip -g`, which prints `ipaddr:192.168.100.101`."""
    found = {}
    for card in cards:
        done = subprocess.run(
            [tool, "-i", str(card), "-ip", "-g"], capture_output=True, text=True, check=False
        )
        for line in done.stdout.splitlines():
            if line.strip().startswith("ipaddr:"):
                found[card] = line.split(":", 1)[1].strip()
    return found


def main(argv: list[str] | None = None) -> int:
    """Parse the options and write the table; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--device_num", default="[0,8)", help='cards, from the first to before the last: "[0,8)"'
    )
    parser.add_argument(
        "--visible_devices", default="", help='which cards these are, as "0,2,3,5"; empty: the same'
    )
    parser.add_argument("--server_ip", default="", help="this server's address; empty: found")
    parser.add_argument(
        "--hccn_conf", type=Path, default=Path("/etc/hccn.conf"), help="addresses of the cards"
    )
    parser.add_argument(
        "--hccn_tool", default="hccn_tool", help="preferred to hccn_conf where it is installed"
    )
    parser.add_argument("--out_dir", type=Path, default=Path(), help="folder of the table")
    args = parser.parse_args(argv)
    try:
        cards = parse_device_range(args.device_num)
        if args.visible_devices:
            visible = parse_device_list(args.visible_devices)
            if cards[-1] >= len(visible):
                raise UserError(
                    f"--device_num: {args.device_num} asks for {cards[-1] + 1} cards, "
                    f"--visible_devices has {len(visible)}"
                )
            cards = [visible[card] for card in cards]
        tool = shutil.which(args.hccn_tool)
        addresses = addresses_by_tool(tool, cards) if tool else read_hccn_conf(args.hccn_conf)
        server = args.server_ip or address_of_host()
        table = make_rank_table(server, cards, addresses)
        name = f"hccl_{len(cards)}p_{''.join(map(str, cards))}_{server}.json"
        write_rank_table(table, args.out_dir / name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"rank table of {len(cards)} cards: {args.out_dir / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
