"""Detect with a checkpoint in a test set: detections as COCO JSON, and AP where the set is annotated."""

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

from src.config import Config, run_entry_point  # noqa: E402


def main(config: Config) -> int:
    """Run the test that the options describe; the exit code."""
    from src.detect.backends import setup_inference
    from src.evaluation.unlabelled import detect_test_set
    from src.remote.modelarts import modelarts_session

    with modelarts_session(config) as config:
        return detect_test_set(config, setup_inference(config))


if __name__ == "__main__":
    run_entry_point(main, entry_point="test", description=__doc__)
