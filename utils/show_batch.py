"""Draw augmented training batches: what `yolov4 batches` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.show_batch import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
