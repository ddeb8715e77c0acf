"""Export a checkpoint as MINDIR, ONNX, OM or AIR, with the settings that a client needs beside it."""

from pathlib import Path

from ..config import Config, run_program
from ..runtime.device import prepare_environment


def run(config: Config) -> int:
    """Run the export that the options describe; the exit code."""
    from ..export.export import export_model, runtime_options
    from ..logger import setup_logger
    from ..remote.modelarts import modelarts_session
    from ..runtime.device import setup_runtime

    if config.check_ascend:
        from ..export.ascend_operators import report_operators

        setup_logger(None, 0)
        return int(report_operators(Path(config.check_ascend)))
    with modelarts_session(config) as config:
        setup_runtime(runtime_options(config))
        setup_logger(None, 0)
        export_model(config)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; the exit code."""
    prepare_environment()  # before anything imports MindSpore
    return run_program(run, argv, entry_point="export", description=__doc__)
