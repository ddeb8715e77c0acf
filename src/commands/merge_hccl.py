"""Merge the rank tables of several servers; ranks go on from server to server in the given order."""

import argparse
from pathlib import Path

from ..base.errors import reports_mistakes
from ..runtime.rank_table import merge_rank_tables, read_rank_table, write_rank_table


@reports_mistakes
def main(argv: list[str] | None = None) -> int:
    """Parse the options and write the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="rank tables, in the order of the ranks")
    parser.add_argument("--out_dir", type=Path, default=Path(), help="folder of the merged table [.]")
    args = parser.parse_args(argv)
    table = merge_rank_tables([read_rank_table(path) for path in args.tables])
    path = args.out_dir / f"hccl_{len(table.servers)}s_{table.rank_count}p.json"
    write_rank_table(table, path)
    print(f"rank table of {len(table.servers)} servers, {table.rank_count} cards: {path}")
    return 0
