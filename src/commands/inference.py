"""Detect in images and whole scenes with a checkpoint, a MINDIR or an ONNX file: images with boxes, and files."""

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

from src.config import Config, run_entry_point  # noqa: E402


def main(config: Config) -> int:
    """Run the inference that the options describe; the exit code."""
    from src.detect.backends import setup_inference
    from src.detect.inference import run_inference

    setup_inference(config.replace(is_distributed=False))
    return run_inference(config)


if __name__ == "__main__":
    run_entry_point(main, entry_point="inference", description=__doc__)
