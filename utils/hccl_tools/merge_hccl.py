"""Merge the rank tables of several servers."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))
from src.commands.merge_hccl import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
