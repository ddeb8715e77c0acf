"""Convert a labelled data set to COCO's format: what `yolov4 convert` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.convert_to_coco import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
