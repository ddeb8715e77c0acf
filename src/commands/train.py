"""Train YOLOv4 on a data set in COCO format."""

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

from src.config import Config, run_entry_point  # noqa: E402


def main(config: Config) -> int:
    """Run the training that the options describe; the exit code."""
    from src.remote.modelarts import modelarts_session
    from src.runtime.stop_request import StopRequest

    stop = StopRequest()
    with modelarts_session(config) as config, stop.listening():
        from src.runtime.device import setup_runtime
        from src.train.trainer import train  # imports MindSpore, whose threads must not receive the signals

        return train(config, setup_runtime(config), stop)


if __name__ == "__main__":
    run_entry_point(main, entry_point="train", description=__doc__)
