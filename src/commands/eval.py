"""Evaluate a checkpoint on a validation set: the twelve COCO lines, AP a class, detections as JSON."""

from ..config import Config, run_program
from ..runtime.device import Runtime, prepare_environment


def evaluate_checkpoint(config: Config, runtime: Runtime) -> int:
    """Evaluate `pretrained` on the validation set; the exit code.

    Raises:
        UserError: no checkpoint, or a set or checkpoint that cannot be used.
    """
    import time
    from pathlib import Path

    from ..detect.backends import open_model
    from ..evaluation.recommendation import write_recommendation
    from ..evaluation.session import (
        evaluate_set,
        load_validation_set,
        log_scores,
        start_folder,
        write_images,
    )
    from ..logger import get_logger
    from ..report.html_report import Report

    started = time.perf_counter()
    folder = start_folder(config, runtime)
    logger = get_logger()
    backend, config = open_model(config)
    dataset = load_validation_set(config)
    logger.info(dataset.describe())
    evaluation = evaluate_set(backend, dataset, config, folder, runtime)
    log_scores(evaluation)
    if runtime.is_master:
        report = Report(folder, f"Evaluation of {Path(config.pretrained).name}", [("validation", dataset)])
        report.add_evaluation(evaluation.result, evaluation.table, dataset)
        report.write([])
        logger.info("report: %s", report.path)
    if runtime.is_master and (config.result_view or config.recommend_threshold):
        drawn = write_images(evaluation, dataset, folder / "pictures", config.recommend_threshold)
        if config.recommend_threshold:
            write_recommendation(folder / "recommend_result", evaluation.result, drawn)
            logger.info("recommended scores and sorted images: %s", folder / "recommend_result")
    logger.info("testing cost time %.2fh", (time.perf_counter() - started) / 3600)
    return 0


def run(config: Config) -> int:
    """Run the evaluation that the options describe; the exit code."""
    from ..detect.backends import setup_inference
    from ..remote.modelarts import modelarts_session

    with modelarts_session(config) as config:
        return evaluate_checkpoint(config, setup_inference(config))


def main(argv: list[str] | None = None) -> int:
    """Parse the options and run; the exit code."""
    prepare_environment()  # before anything imports MindSpore
    return run_program(run, argv, entry_point="eval", description=__doc__)
