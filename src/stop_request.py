"""A request from outside to end a run (SIGTERM of a scheduler, Ctrl-C): kept until a step is done, by all ranks.

A thread of its own reads the signals, so that a second Ctrl-C works while the main thread is compiling.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from src.collectives import gather_numbers
from src.logger import get_logger
from src.runtime import Runtime

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ASK_SECONDS = 1.0  # between two questions to the other ranks
_MOST_STEPS = 1000


class StopRequest:
    """The first signal that asked this process to stop.

    Attributes:
        number: the signal, 0 while there was none.
    """

    def __init__(self):
        self.number = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, SIGTERM and SIGINT are noted; a SIGINT after either leaves at once, with 130.

        Only the main thread can listen; in another one the block runs as it is.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        inner, outer = socket.socketpair()
        outer.setblocking(False)
        reader = threading.Thread(target=self._read, args=(inner,), name="signals", daemon=True)
        reader.start()
        handlers = {number: signal.signal(number, _keep) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            outer.close()  # ends the reader
            reader.join()

    def _read(self, numbers: socket.socket) -> None:
        with numbers:
            while received := numbers.recv(64):
                for number in received:
                    self._note(number)

    def _note(self, number: int) -> None:
        if number not in SIGNALS:
            return
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)
        if not self.number:
            self.number = number
            get_logger().warning(
                "%s: stopping after the step under way (Ctrl-C leaves at once, without a checkpoint)",
                signal.Signals(number).name,
            )


def _keep(number, frame) -> None:
    """A handler must be there for the signal to be read and not to end the process."""


class AgreedStop:
    """One answer of all ranks to "has any of us been asked to stop?", at the same step.

    Ranks ask each other about once a second: the steps until the next question follow from the slowest rank's time
    for a step, which travels with the answer, so all ask at the same steps and no step waits for an answer.

    Args:
        request: of this process.
        runtime: its place among the ranks.
    """

    def __init__(self, request: StopRequest, runtime: Runtime):
        self.request, self.runtime = request, runtime
        self.asked_at, self.clock, self.next_step = 0, 0.0, 0

    def at_step(self, step: int) -> int:
        """The signal that a rank has got (the highest, where they differ), 0 if none or if it is not time to ask.

        Args:
            step: steps done; the same on all ranks.
        """
        if self.runtime.group_size == 1:
            return self.request.number
        if step < self.next_step:
            return 0
        now = time.monotonic()
        spent = (now - self.clock) / max(1, step - self.asked_at) if self.clock else ASK_SECONDS
        answers = gather_numbers(self.runtime, [self.request.number, min(int(spent * 1e6), 2**31 - 1)])
        number, slowest = answers.max(axis=0).tolist()
        self.asked_at, self.clock = step, time.monotonic()
        self.next_step = step + min(max(1, int(ASK_SECONDS * 1e6 / max(1, slowest))), _MOST_STEPS)
        return number
