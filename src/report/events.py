"""TensorBoard event files of a run, for those who watch several runs side by side."""

import time
from pathlib import Path

from ..base.errors import UserError, refusal
from ..logger import get_logger


class EventFiles:
    """Scalars of each epoch as event files in a folder, which `tensorboard --logdir` reads.

    Raises:
        UserError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            import tensorboardX  # noqa: F401
            from tensorboardX.event_file_writer import EventsWriter
        except ImportError as error:
            raise UserError(
                "tensorboard: tensorboardX is not installed; pip install -r requirements-tensorboard.txt"
            ) from error
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The file itself and not SummaryWriter: its thread dies of a full disk, and then its queue blocks the run.
            self.file = EventsWriter(str(folder / "events"))
        except OSError as error:
            raise UserError(refusal(error, folder)) from error

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars by name, at a step. A full disk ends the event files, not the run."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if self.file is None:
            return
        try:
            for name, value in scalars.items():
                self.file.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
            self.file.flush()
        except OSError as error:
            get_logger().warning(
                "%s; there are no event files from step %d on", refusal(error, self.folder), step
            )
            self.file = None

    def close(self) -> None:
        """Write what is still in memory."""
        if self.file is not None:
            self.file.close()
