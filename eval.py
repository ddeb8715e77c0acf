"""Evaluate a checkpoint on a validation set: what `yolov4 eval` does."""

import sys

from src.commands.eval import main

if __name__ == "__main__":
    sys.exit(main())
