"""Train YOLOv4 on a data set in COCO format."""

from ..config import Config, run_program
from ..runtime.device import prepare_environment


def run(config: Config) -> int:
    """Run the training that the options describe; the exit code."""
    from ..remote.modelarts import modelarts_session
    from ..runtime.stop_request import StopRequest

    stop = StopRequest()
    with modelarts_session(config) as config, stop.listening():
        from ..runtime.device import setup_runtime
        from ..train.trainer import train  # imports MindSpore, whose threads must not receive the signals

        return train(config, setup_runtime(config), stop)


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; the exit code."""
    prepare_environment()  # before anything imports MindSpore
    return run_program(run, argv, entry_point="train", description=__doc__)
