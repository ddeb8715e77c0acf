"""Detect in images and whole scenes with a checkpoint, a MINDIR or an ONNX file: images with boxes, and files."""

from ..config import Config, run_program
from ..runtime.device import prepare_environment


def run(config: Config) -> int:
    """Run the inference that the options describe; the exit code."""
    from ..detect.backends import setup_inference
    from ..detect.inference import run_inference

    setup_inference(config.replace(is_distributed=False))
    return run_inference(config)


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; the exit code."""
    prepare_environment()  # before anything imports MindSpore
    return run_program(run, argv, entry_point="inference", description=__doc__)
