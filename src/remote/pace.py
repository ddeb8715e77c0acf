"""The slowest that bytes may come from elsewhere: a transfer that trickles would be waited for without end."""

import threading
import time

SLOWEST = 1000  # bytes a second


class Pace:
    """Called with the bytes of each part of a transfer, from any thread.

    Args:
        seconds: how long the parts are counted together.

    Raises:
        TimeoutError: in a call, where so many seconds brought less than `SLOWEST` bytes a second.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._lock, self._bytes, self._since = threading.Lock(), 0, time.monotonic()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            passed = time.monotonic() - self._since
            if passed >= self._seconds:
                if self._bytes < SLOWEST * passed:
                    raise TimeoutError(f"slower than {SLOWEST} bytes a second")
                self._bytes, self._since = 0, time.monotonic()
