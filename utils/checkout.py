"""Makes `src` importable for the tools of this folder, which the published commands start by their path.

`python utils/NAME.py` has utils/ on Python's search path, not the checkout. The programs at its top need nothing of the
kind, and where the package is installed `yolov4 NAME` does what the tools do.
"""

import sys
from pathlib import Path

CHECKOUT = str(Path(__file__).resolve().parent.parent)
if CHECKOUT not in sys.path:
    sys.path.insert(0, CHECKOUT)
