"""Detect with a checkpoint in a test set: detections as COCO JSON, and AP where the set is annotated."""

from ..config import Config, run_program
from ..runtime.device import prepare_environment


def run(config: Config) -> int:
    """Run the test that the options describe; the exit code."""
    from ..detect.backends import setup_inference
    from ..evaluation.held_out import detect_test_set
    from ..remote.modelarts import modelarts_session

    with modelarts_session(config) as config:
        return detect_test_set(config, setup_inference(config))


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; the exit code."""
    prepare_environment()  # before anything imports MindSpore
    return run_program(run, argv, entry_point="test", description=__doc__)
