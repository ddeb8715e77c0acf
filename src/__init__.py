"""YOLOv4 for remote sensing on MindSpore: `src` in a checkout, `yolov4` where it is installed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base.errors import UserError

if TYPE_CHECKING:
    from .detect.model import Model

__all__ = ["UserError", "__version__", "load"]
__version__ = "0.2.0"  # its one home; pyproject.toml reads it here


def load(model: str | Path, **options: Any) -> "Model":
    """Open a trained network; see `detect.model.load`, which is imported when it is called, not with the package."""
    from .detect.model import load as load_model

    return load_model(model, **options)
