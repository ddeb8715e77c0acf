"""Export a checkpoint as MINDIR, ONNX, OM or AIR, with the settings that a client needs beside it."""

from pathlib import Path

from src.runtime.device import prepare_environment

prepare_environment()  # before anything imports MindSpore

from src.config import Config, run_entry_point  # noqa: E402


def main(config: Config) -> int:
    """Run the export that the options describe; the exit code."""
    from src.export.export import export_model, runtime_options
    from src.logger import setup_logger
    from src.remote.modelarts import modelarts_session
    from src.runtime.device import setup_runtime

    if config.check_ascend:
        from src.export.ascend_operators import report_operators

        setup_logger(None, 0)
        return int(report_operators(Path(config.check_ascend)))
    with modelarts_session(config) as config:
        setup_runtime(runtime_options(config))
        setup_logger(None, 0)
        export_model(config)
    return 0


if __name__ == "__main__":
    run_entry_point(main, entry_point="export", description=__doc__)
