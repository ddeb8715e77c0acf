"""A request from outside to end a run (SIGTERM of a scheduler, Ctrl-C): kept until a step is done, by all ranks.

MindSpore puts a handler of its own in place of SIGINT's while it compiles and runs, which turns it into SIGTERM.
So both signals are blocked, before MindSpore's and numpy's threads start (they inherit that), and a thread waits
for them; it also hears a second Ctrl-C while the main thread is compiling.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..logger import get_logger

if TYPE_CHECKING:
    from .device import Runtime

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ASK_SECONDS = 1.0  # between two questions to the other ranks
_MOST_STEPS = 1000
_POLL_SECONDS = 0.2


class StopRequest:
    """The first signal that asked this process to stop.

    Attributes:
        number: the signal, 0 while there was none.
    """

    def __init__(self):
        self.number = 0
        self._ended = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, SIGTERM, SIGINT and SIGHUP are noted; a SIGINT after any leaves at once, with 130.

        A SIGHUP that is ignored (nohup) stays so.

        Begin it before MindSpore is imported. Only the main thread can listen; in another one the block runs as
        it is.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        # For threads that are older, and so may still receive them.
        handlers = {
            number: signal.signal(number, lambda number, frame: self._note(number)) for number in signals
        }
        self._ended.clear()
        reader = threading.Thread(target=self._read, args=(signals,), name="signals", daemon=True)
        reader.start()
        try:
            yield
        finally:
            self._ended.set()
            reader.join()
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _read(self, signals: list[signal.Signals]) -> None:
        while not self._ended.is_set():
            received = signal.sigtimedwait(signals, _POLL_SECONDS)
            if received is not None:
                self._note(received.si_signo)

    def _note(self, number: int) -> None:
        if self.number and number == signal.SIGINT:
            os._exit(128 + number)
        if not self.number:
            self.number = number
            get_logger().warning(
                "%s: stopping after the step under way (Ctrl-C leaves at once, without a checkpoint)",
                signal.Signals(number).name,
            )


class AgreedStop:
    """One answer of all ranks to "has any of us been asked to stop?", at the same step.

    Ranks ask each other about once a second: the steps until the next question follow from the slowest rank's time
    for a step, which travels with the answer, so all ask at the same steps and no step waits for an answer.

    Args:
        request: of this process.
        runtime: its place among the ranks.
    """

    def __init__(self, request: StopRequest, runtime: "Runtime"):
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
        from .collectives import gather_numbers  # imports numpy, which starts threads

        now = time.monotonic()
        spent = (now - self.clock) / max(1, step - self.asked_at) if self.clock else ASK_SECONDS
        answers = gather_numbers(self.runtime, [self.request.number, min(int(spent * 1e6), 2**31 - 1)])
        number, slowest = answers.max(axis=0).tolist()
        self.asked_at, self.clock = step, time.monotonic()
        self.next_step = step + min(max(1, int(ASK_SECONDS * 1e6 / max(1, slowest))), _MOST_STEPS)
        return number
