"""Detect in images and whole scenes: what `yolov4 predict` does."""

import sys

from src.commands.inference import main

if __name__ == "__main__":
    sys.exit(main())
