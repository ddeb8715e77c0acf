"""Detect with a checkpoint in a test set: what `yolov4 test` does."""

import sys

from src.commands.test import main

if __name__ == "__main__":
    sys.exit(main())
