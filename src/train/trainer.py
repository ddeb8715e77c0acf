"""Training: an epoch after another until a run is over, with its evaluations."""

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms

from ..base.errors import UserError, one_line, shown
from ..config import Config
from ..data_loader import TrainBatch
from ..evaluation.session import StoppedEvaluation, evaluate_set
from ..logger import get_logger
from ..runtime.collectives import agree
from ..runtime.device import Runtime
from ..runtime.stop_request import StopRequest
from .progress import Progress
from .run import PROFILED_STEPS, Run, start_run


def train(config: Config, runtime: Runtime, stop: StopRequest) -> int:
    """Run the training of the options, until its end or until it is asked to stop; the exit code.

    It is 1 where an evaluation failed, which ends no training.

    Raises:
        SystemExit: the run was stopped by SIGTERM (143) or SIGINT (130), its checkpoint is saved.
    """
    config = config.replace(rank=runtime.rank, group_size=runtime.group_size)  # as the launcher set them
    run = start_run(config, runtime, stop)
    fit(run)
    if run.stopped_by:
        raise SystemExit(128 + run.stopped_by)
    return 1 if run.failed_evaluations else 0


def fit(run: Run) -> float:
    """Train until the run is over. Returns the best mAP (-1 where nothing was evaluated).

    Raises:
        UserError: the loss is not finite; names the step and the images.
    """
    state, first_step = run.state, run.state.step
    with _profile(run):
        evaluate_if_missed(run)
        with Progress(run.config, run.runtime, state, run.parts.rates, run.last_step) as progress:
            while not run.is_over():
                train_one_epoch(run, progress)
                if state.is_epoch_end and not run.stopped_by:
                    finish_epoch(run, progress)
        if state.step > first_step and not state.is_due(run.config.ckpt_interval):
            run.save()
        run.results.write_report()
        if run.results.report:
            get_logger().info("report: %s", run.results.report.path)
        run.results.close()
    _say_goodbye(run, has_trained=state.step > first_step)
    return state.best_map


def train_one_epoch(run: Run, progress: Progress) -> None:
    """Train on the batches of the epoch that are left, or until the run is over."""
    state, parts = run.state, run.parts
    for batch in parts.loader.epoch(state.epoch, state.step % state.steps_per_epoch):
        loss, loss_parts = parts.step(batch, state.step)
        if not math.isfinite(loss):
            _refuse_loss(run, loss, batch)
        state.step += 1
        progress.add(loss, loss_parts)
        if state.is_epoch_end:
            run.results.add_epoch(progress.take_epoch())
        if state.is_due(run.config.ckpt_interval):
            run.save()
        if run.is_over():
            return


def finish_epoch(run: Run, progress: Progress) -> None:
    """After an epoch's last step: its evaluation, if one is due, and the report."""
    if is_evaluated(run.config, run.state.epoch):
        evaluate(run)
        progress.meter.restart_clock()
    if run.state.step < run.last_step:
        run.results.write_report(is_running=True)
    run.state.epoch_meter.restart_clock()


def _refuse_loss(run: Run, loss: float, batch: TrainBatch) -> None:
    names = ", ".join(str(path) for path in batch.paths)
    run.results.write_report()
    raise UserError(
        f"the loss is {loss} at epoch {run.state.epoch + 1}, step {run.state.step + 1}, "
        f"images: {names}; nothing was saved after the last checkpoint. Lower lr, raise warmup_epochs, "
        "set clip_norm (with ms_amp_level: lower amp_loss_scale), or look at these images' boxes"
    )


@contextmanager
def _profile(run: Run) -> Iterator[None]:
    """Within the block, and if the options say so, what the steps do is noted."""
    if not run.config.need_profiler:
        yield
        return
    profiler = ms.Profiler(output_path=str(run.folder.profile))
    yield
    profiler.analyse()
    get_logger().info("profile of %d steps in %s", PROFILED_STEPS, run.folder.profile)


def _say_goodbye(run: Run, has_trained: bool) -> None:
    """The last lines; of a run that was stopped, when no rank has anything left to write."""
    state, logger = run.state, get_logger()
    if not run.stopped_by:
        if run.config.run_eval:
            logger.info(
                "End training, the best mAP is: %s, the best mAP epoch is %s",
                state.best_map,
                state.best_epoch,
            )
            _say_where_the_best_is(run)
        logger.info("==========end training===============")
        return
    agree(run.runtime, 0)  # a rank that leaves earlier takes the launcher, and so the others, with it
    if not run.runtime.is_master:
        return
    name = signal.Signals(run.stopped_by).name
    if not has_trained or run.config.need_profiler:
        logger.warning("%s: stopped at step %d, nothing new to save", name, state.step)
        return
    logger.warning(
        "%s: stopped after step %d, checkpoint saved; go on with the same options and --resume=%s",
        name, state.step, run.folder.path,
    )  # fmt: skip


def _say_where_the_best_is(run: Run) -> None:
    """A resumed run that has not got better has no best checkpoint of its own."""
    if run.failed_evaluations:
        get_logger().error("%d evaluations failed; their reasons are above", run.failed_evaluations)
    best = run.state.best_path
    if not best or not run.runtime.is_master or run.config.need_profiler:
        return
    where = "" if Path(best).is_file() else " (it is not there any more)"
    get_logger().info("best checkpoint: %s%s", shown(best, 500), where)


# -------------------------------------------------------------------- evaluation


def is_evaluated(config: Config, epoch: int) -> bool:
    """Whether the options want an evaluation after an epoch, counted from 1."""
    if not config.run_eval:
        return False
    since = epoch - config.eval_start_epoch
    return (since >= 0 and since % config.eval_interval == 0) or epoch == config.max_epoch


def evaluate_if_missed(run: Run) -> None:
    """A run that ended between an epoch's last step and the end of its evaluation evaluates when resumed."""
    state = run.state
    if state.is_epoch_end and state.epoch > state.evaluated_epoch and is_evaluated(run.config, state.epoch):
        evaluate(run)


@contextmanager
def _averages_in_place(run: Run) -> Iterator[None]:
    """Within the block the network infers, with the moving averages of its parameters where there are any."""
    parts = run.parts
    parts.network.set_train(False)
    if parts.average is not None:
        parts.average.swap()
    try:
        yield
    finally:
        if parts.average is not None:
            parts.average.swap()
        parts.step.set_train()


def evaluate(run: Run) -> None:
    """Score the validation set after an epoch; keep the checkpoint if it is the best so far.

    One that fails is said and counted, and training goes on. One that is asked to stop is made up when the run is
    resumed.
    """
    state, parts, logger = run.state, run.parts, get_logger()
    assert parts.validation_set is not None  # loaded where any epoch is evaluated
    with _averages_in_place(run):
        try:
            evaluation = evaluate_set(
                parts.backend, parts.validation_set, run.config, run.folder.path, run.runtime,
                stop=run.stop.request,
            )  # fmt: skip
        except StoppedEvaluation as stopped:
            run.stopped_by = stopped.number
            return
        except (
            Exception
        ) as error:  # of an image, of the disk or of a library: the weights are as good as before
            state.evaluated_epoch = state.epoch
            run.failed_evaluations += 1
            reason = error if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
            logger.error("epoch %d: the evaluation failed, training goes on: %s", state.epoch, reason)
            return
    state.evaluated_epoch = state.epoch
    result = evaluation.result
    logger.info("epoch: %d, mAP:\n%s", state.epoch, result.text())
    run.results.add_evaluation(state.step, state.epoch, evaluation, parts.validation_set)
    if result.mean_ap < state.best_map:
        return
    state.best_map, state.best_epoch = result.mean_ap, state.epoch
    state.best_path = str(run.folder.best.resolve()) if run.config.save_best_ckpt else ""
    logger.info("update best result: %s", result.mean_ap)
    if run.config.save_best_ckpt:
        run.save(run.folder.best)
        logger.info("update best checkpoint at: %s", run.folder.best)
