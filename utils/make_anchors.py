"""Find anchors for a data set's own boxes: what `yolov4 anchors` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.make_anchors import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
