"""Rename a backbone's parameters between the model zoo's and MindYOLO's names."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.convert_weight_cspdarknet53 import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
