"""Make the HCCL rank table of this server: hccl_<n>p_<cards>_<server>.json.

Addresses of the cards come from hccn_tool, and from /etc/hccn.conf for cards of which it tells none.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from ..base.errors import UserError, reports_mistakes
from ..runtime.rank_table import (
    make_rank_table,
    parse_device_list,
    parse_device_range,
    read_hccn_conf,
    write_rank_table,
)

CARDS_A_GROUP = 4
TOOL_SECONDS = 30
# Where the driver puts hccn_tool; its installer adds neither to the path.
TOOL_FOLDERS = ("/usr/local/Ascend/driver/tools", "/usr/local/Ascend/driver/tools/hccn_tool")


def address_of_host() -> str:
    """This host's own address, as the others see it: that of its default route, else that of its name.

    Raises:
        UserError: it has none but the loopback's.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # documentation address: nothing is sent, the route is looked up
            return probe.getsockname()[0]
        except OSError:
            pass  # a closed cluster may have no default route
    try:
        named = socket.gethostbyname_ex(socket.gethostname())[2]
    except OSError:
        named = []
    for address in named:
        if not address.startswith("127."):
            return address
    raise UserError("this host's address is not known; give it with --server_ip")


def addresses_by_tool(tool: str, cards: list[int]) -> dict[int, str]:
    """Addresses from `hccn_tool -i CARD -ip -g`, which prints `ipaddr:192.168.100.101`.

    A card for which the tool fails, hangs or prints no address is left out.
    """
    found = {}
    for card in cards:
        command = [tool, "-i", str(card), "-ip", "-g"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=TOOL_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        for line in done.stdout.splitlines():
            if line.strip().startswith("ipaddr:"):
                found[card] = line.split(":", 1)[1].strip()
    return found


def addresses_of_cards(tool: str, hccn_conf: Path, cards: list[int]) -> dict[int, str]:
    """Addresses from the tool where it is installed, the others from hccn.conf.

    Raises:
        UserError: hccn.conf is needed and cannot be read.
    """
    installed = shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(TOOL_FOLDERS))
    found = addresses_by_tool(installed, cards) if installed else {}
    if all(card in found for card in cards):
        return found
    if installed and not hccn_conf.exists():
        return found  # which card has no address is said when the table is made
    return {**read_hccn_conf(hccn_conf), **found}


def check_group(text: str, cards: list[int]) -> None:
    """Refuse cards of both groups of four, unless they are all eight: HCCL's rings are within a group.

    Raises:
        UserError: the interval crosses from one group to the other.
    """
    if cards[0] < CARDS_A_GROUP <= cards[-1] and len(cards) != 2 * CARDS_A_GROUP:
        raise UserError(
            f"--device_num: {text} crosses the groups [0,4) and [4,8), which only [0,8) may; where the server has no "
            f'such groups, use --device_num "[0,{len(cards)})" --visible_devices "{",".join(map(str, cards))}"'
        )


def check_server_id(text: str) -> str:
    """`--server_ip` as given, if it can be a server_id and part of a file's name.

    Raises:
        UserError: another form than an address or a name, or longer than HCCL takes.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._:-]{0,62}", text):
        raise UserError(f"--server_ip: {text!r} is no address or host name of at most 63 characters")
    return text


@reports_mistakes
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
        "--hccn_tool",
        default="hccn_tool",
        help="preferred to hccn_conf where it is found: on the path, or among the driver's tools",
    )
    parser.add_argument("--out_dir", type=Path, default=Path(), help="folder of the table")
    args = parser.parse_args(argv)
    named = cards = parse_device_range(args.device_num)
    each_chosen = False
    if args.visible_devices:
        visible = parse_device_list(args.visible_devices)
        if cards[-1] >= len(visible):
            raise UserError(
                f"--device_num: {args.device_num} asks for {cards[-1] + 1} cards, "
                f"--visible_devices has {len(visible)}"
            )
        cards = [visible[card] for card in cards]
        each_chosen = len(visible) == len(cards)
    if cards == named and not each_chosen:
        check_group(args.device_num, cards)
    server = check_server_id(args.server_ip) if args.server_ip else address_of_host()
    addresses = addresses_of_cards(args.hccn_tool, args.hccn_conf, cards)
    table = make_rank_table(server, cards, addresses)
    name = f"hccl_{len(cards)}p_{''.join(map(str, cards))}_{server}.json"
    write_rank_table(table, args.out_dir / name)
    print(f"rank table of {len(cards)} cards: {args.out_dir / name}")
    return 0
