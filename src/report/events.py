"""TensorBoard event files of a run, for those who watch several runs side by side."""

from pathlib import Path

from src.errors import UserError


class EventFiles:
    """Scalars of each epoch as event files in a folder, which `tensorboard --logdir` reads.

    Raises:
        UserError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError(
                "tensorboard: tensorboardX is not installed; pip install -r requirements-tensorboard.txt"
            ) from error
        self.writer = SummaryWriter(str(folder))

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Scalars by name, at a step."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self.writer.close()
