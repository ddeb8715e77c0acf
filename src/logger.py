"""The run's log: the published line format on the terminal and in a file, friendly to a progress bar."""

import contextlib
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import IO
from weakref import WeakSet

from tqdm import tqdm

from .base.errors import UserError, refusal
from .base.foreign_text import Lines, one_printable

LOGGER_NAME = "yolov4"
_TOLD: WeakSet[logging.Handler] = WeakSet()  # whose lost lines were spoken of
# 2023-01-10 17:29:07,004:INFO:message
LINE_FORMAT = "%(asctime)s:%(levelname)s:%(message)s"


def _say_once(handler: logging.Handler, place: str) -> bool:
    """Whether a log line was lost to a full disk; told on standard error the first time, without a stack trace."""
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        return False
    if handler not in _TOLD:
        _TOLD.add(handler)
        with contextlib.suppress(OSError):
            print(f"warning: {refusal(error, place)}; log lines are lost, the run goes on", file=sys.stderr)
    return True


class _LogFileHandler(logging.FileHandler):
    """Writes lines to a file; a full disk costs lines and not the run."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not _say_once(self, self.baseFilename):
            super().handleError(record)


class _ConsoleHandler(logging.StreamHandler):
    """Writes lines above a progress bar, if one is showing."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not _say_once(self, "standard output"):
            super().handleError(record)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Values from outside are one printable line each: a name cannot forge a line or command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        plain = logging.makeLogRecord(record.__dict__)
        if record.args:
            if isinstance(record.args, tuple):
                plain.args = tuple(map(_fit, record.args))
        else:
            plain.msg = _fit(record.msg)
        return super().format(plain)


def _fit(value: object) -> object:
    return value if isinstance(value, int | float | Lines) else one_printable(value)


def get_logger() -> logging.Logger:
    """The project's logger; modules log through it and never configure it."""
    return logging.getLogger(LOGGER_NAME)


def setup_logger(folder: Path | None = None, rank: int = 0) -> logging.Logger:
    """Send the log to standard output (rank 0; other ranks only warnings) and to `folder`.

    Calling it again replaces the handlers, so a process that runs twice does not log twice.

    Raises:
        UserError: the folder or the log cannot be made.
    """
    logger = get_logger()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError):  # lines that a full disk did not take
            handler.close()
    console = _ConsoleHandler(sys.stdout)
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [console]
    if folder is not None:
        name = f"{datetime.now():%Y-%m-%d_time_%H_%M_%S}_rank_{rank}.log"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handlers.append(_LogFileHandler(folder / name, encoding="utf-8"))
        except OSError as error:
            raise UserError(refusal(error, folder)) from error
    for handler in handlers:
        handler.setFormatter(_Formatter(LINE_FORMAT))
        logger.addHandler(handler)
    return logger


def step_line(epoch: int, iteration: int, loss: float, step_ms: float, fps: float, lr: float) -> str:
    """The published training line, to the letter: users grep it."""
    return (
        f"epoch[{epoch}], iter[{iteration}], loss:{loss:.6f}, per step time: {step_ms:.2f} ms, "
        f"fps: {fps:.2f}, lr:{lr}"
    )


def _is_terminal(stream: IO | None) -> bool:
    """Python has no stream where the program was started with it closed."""
    return stream is not None and stream.isatty()


def progress_bar(total: int | None, description: str, unit: str, rank: int = 0, initial: int = 0) -> tqdm:
    """A bar with speed and time left on a terminal and on rank 0; silent where output goes to a file or a pipe."""
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        # It is drawn on standard error, above which the lines of standard output are written.
        disable=rank != 0 or not (_is_terminal(sys.stdout) and _is_terminal(sys.stderr)),
        dynamic_ncols=True,
        leave=False,
    )
