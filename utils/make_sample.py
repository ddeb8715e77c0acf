"""Draw a sample of aerial scenes: what `yolov4 sample` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.make_sample import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
