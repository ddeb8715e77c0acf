"""YOLOv4 for remote sensing on MindSpore: `src` in a checkout, `yolov4` where it is installed."""

__version__ = "0.2.0"  # its one home; pyproject.toml reads it here
