"""Look through a data set before training: what `yolov4 check` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.check_dataset import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
