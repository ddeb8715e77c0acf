"""Cut DOTA scenes into tiles: what `yolov4 split` does."""

import runpy
import sys
from pathlib import Path

runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))
from src.commands.split_dota import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
