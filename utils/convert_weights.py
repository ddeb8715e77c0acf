"""Convert weights of other systems: what `yolov4 weights` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.convert_weights import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
