"""Export a checkpoint as MINDIR, ONNX, OM or AIR: what `yolov4 export` does."""

import sys

from src.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
