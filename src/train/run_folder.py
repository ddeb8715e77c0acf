"""The folder of a training run: the names of what is in it, its newest and best checkpoint, and which ones stay.

2026-01-31_time_12_00_00/config.yaml, report.html, results.csv, ...
2026-01-31_time_12_00_00/ckpt_RANK/RANK-EPOCH_STEP.ckpt, best_map.ckpt
"""

import re
from pathlib import Path

from ..base.atomic import atomic_write
from ..base.errors import UserError
from ..config import Config
from ..remote.download import without_signature
from ..weights.checkpoint import time_of

BEST = "best_map.ckpt"
_STEP_CHECKPOINT = re.compile(r"[0-9]+-[0-9]+_([0-9]{1,12})\.ckpt")  # RANK-EPOCH_STEP


class RunFolder:
    """Names of the files of one run.

    Args:
        path: the folder; need not be there.
        rank: whose checkpoints are written.
    """

    def __init__(self, path: str | Path, rank: int = 0):
        self.path, self.rank = Path(path), rank
        self.checkpoints = self.path / f"ckpt_{rank}"
        self.best = self.checkpoints / BEST
        self.profile = self.path / "profiler"

    def step_checkpoint(self, epoch: int, step: int) -> Path:
        """This rank's checkpoint after so many steps, in so many epochs (the one under way counts)."""
        return self.checkpoints / f"{self.rank}-{epoch}_{step}.ckpt"

    def step_checkpoints(self) -> list[Path]:
        """The step checkpoints of all ranks, by step."""
        return _by_step(self.path.glob("ckpt_*/*.ckpt"))

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` step checkpoints of this rank (by step, not by clock)."""
        for file in _by_step(self.checkpoints.glob("*.ckpt"))[:-keep]:
            file.unlink(missing_ok=True)

    def write_options(self, config: Config) -> None:
        """Write the options to `config.yaml`, without the signatures of addresses."""
        public = {key: without_signature(value) for key, value in config.items()}
        with atomic_write(self.path / "config.yaml") as handle:
            handle.write(Config(public).to_yaml())


def last_checkpoints(place: str | Path, runs: str | Path) -> list[Path]:
    """The step checkpoints of a run, the newest first: by the time that each carries, of one time by step.

    Args:
        place: the run's folder, or `auto` for all runs.
        runs: folder of runs, for `auto`.

    Raises:
        UserError: there is none.
    """
    is_auto = str(place) == "auto"
    files = [
        file
        for folder in (Path(runs).glob("*/") if is_auto else [place])
        for file in RunFolder(folder).step_checkpoints()
    ]
    if not files:
        where = f"no run in {runs}" if is_auto else f"the run {place} has none"
        raise UserError(
            f"resume: no checkpoint to go on from: {where}; give a run's folder, or start without --resume"
        )
    return sorted(files, key=lambda file: (time_of(file), _step_of(file)), reverse=True)


def _step_of(file: Path) -> int:
    found = _STEP_CHECKPOINT.fullmatch(file.name)
    return int(found[1]) if found else -1


def _by_step(files) -> list[Path]:
    """The step checkpoints among some files, by their steps; other names are not ours."""
    return sorted((file for file in files if _STEP_CHECKPOINT.fullmatch(file.name)), key=_step_of)
