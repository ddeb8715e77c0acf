"""Train YOLOv4 on a data set in COCO format: what `yolov4 train` does."""

import sys

from src.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
