"""Evaluate a checkpoint on a validation set: the twelve COCO lines, AP a class, detections as JSON."""

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

from src.config import Config, run_entry_point  # noqa: E402


def main(config: Config) -> int:
    """Run the evaluation that the options describe; the exit code."""
    from src.evaluation.session import evaluate_checkpoint
    from src.remote.modelarts import modelarts_session
    from src.runtime.device import setup_inference

    with modelarts_session(config) as config:
        return evaluate_checkpoint(config, setup_inference(config))


if __name__ == "__main__":
    run_entry_point(main, entry_point="eval", description=__doc__)
