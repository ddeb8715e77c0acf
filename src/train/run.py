"""One training run: its folder, its parts, where it is and when it is over."""

import math
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..evaluation.session import check_validation_images
from ..logger import setup_logger
from ..report.run_results import RunResults
from ..runtime.collectives import new_folder
from ..runtime.device import Runtime
from ..runtime.stop_request import AgreedStop, StopRequest
from .build import Parts, build
from .run_folder import RunFolder
from .start import RESUME, find_start, with_start_options
from .state import TrainState

PROFILED_STEPS = 10


@dataclass
class Run:
    """One training run.

    Attributes:
        config: its options, with what its start brings.
        runtime: this process's place among the ranks.
        folder: where its files go.
        parts: data, network and step.
        results: what it tells beside its log.
        stop: whether a rank was asked to stop.
        last_step: at which it ends.
        stopped_by: the signal that ended it early, 0 if none did.
        failed_evaluations: how many evaluations could not be done.
    """

    config: Config
    runtime: Runtime
    folder: RunFolder
    parts: Parts
    results: RunResults
    stop: AgreedStop
    last_step: int
    stopped_by: int = 0
    failed_evaluations: int = 0

    @property
    def state(self) -> TrainState:
        """Where it is."""
        return self.parts.state

    def is_over(self) -> bool:
        """Whether it is at its end or a rank was asked to stop; all ranks hear that at the same step."""
        if self.state.step >= self.last_step:
            return True
        self.stopped_by = self.stopped_by or self.stop.at_step(self.state.step)
        return bool(self.stopped_by)

    def save(self, path: Path | None = None) -> None:
        """Write a step checkpoint, of which the newest stay, or the one at `path`."""
        config, state = self.config, self.state
        is_writer = self.runtime.is_master or not config.is_save_on_master
        if not is_writer or config.need_profiler:
            return
        if path is not None:
            state.save(path, config)
            return
        epoch = math.ceil(state.step / state.steps_per_epoch)
        state.save(self.folder.step_checkpoint(epoch, state.step), config)
        self.folder.prune(config.keep_checkpoint_max)


def start_run(config: Config, runtime: Runtime, stop: StopRequest | None = None) -> Run:
    """Open the folder of a run and build it, up to its first step.

    Raises:
        UserError: options, data or a start that do not fit; or the folder cannot be written to.
    """
    agreed_stop = AgreedStop(stop or StopRequest(), runtime)
    setup_logger(None, runtime.rank)
    start = find_start(config)  # before there is a folder, which would be left empty where it fails
    config = with_start_options(config, start, runtime)
    folder = RunFolder(new_folder(config.ckpt_path, runtime), runtime.rank)
    setup_logger(folder.path, runtime.rank)
    if runtime.is_master:
        folder.write_options(config)
    parts = build(config, runtime, start)
    if parts.validation_set is not None:
        check_validation_images(parts.validation_set, config, runtime)
    results = _open_results(config, runtime, folder, parts)
    if start is not None and start.kind == RESUME and start.state is not None:
        results.continue_from(start.path.resolve().parent.parent, parts.state.epoch)
    results.write_report(is_running=True)
    return Run(config, runtime, folder, parts, results, agreed_stop, _last_step(config, parts.state))


def _open_results(config: Config, runtime: Runtime, folder: RunFolder, parts: Parts) -> RunResults:
    sets = [("training", parts.loader.dataset)]
    if parts.validation_set is not None:
        sets.append(("validation", parts.validation_set))
    return RunResults(
        folder.path,
        sets,
        config.max_epoch,
        is_writer=runtime.is_master and not config.need_profiler,
        with_events=config.tensorboard,
    )


def _last_step(config: Config, state: TrainState) -> int:
    ends = [state.steps_per_epoch * config.max_epoch]
    if config.max_steps:
        ends.append(config.max_steps)
    if config.need_profiler:
        ends.append(state.step + PROFILED_STEPS)
    return min(ends)
