"""Agreement between the processes of one host, by locks that the kernel drops when a process dies.

The lock files stay where they are; only a lock held on them means anything, so a killed job blocks nobody.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import UserError
from ..logger import get_logger

try:
    import fcntl
except ImportError:  # no POSIX: one process a host
    fcntl = None  # type: ignore[assignment]


def _open(path: Path) -> int:
    """A descriptor of the lock file beside `path`."""
    lock = path.parent / f".{path.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"{lock}: cannot be created ({error.strerror}); choose a folder that can be written to"
        ) from error


@contextmanager
def host_lock(folder: Path) -> Iterator[None]:
    """Only one process of this host is inside for a given `folder`; the others wait."""
    handle = _open(Path(folder))
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                get_logger().info("wait for another process of this host to prepare %s", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # gives the lock back


class HostGroup:
    """The processes of this host that write to `folder`, from construction to `leave`.

    Record locks, not flock: a forked helper process that outlives its parent does not hold them.
    """

    def __init__(self, folder: Path):
        self._handle = _open(Path(folder))
        if fcntl is not None:
            fcntl.lockf(self._handle, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Leave the group; whether no other process is left in it."""
        try:
            if fcntl is None:
                return True
            # Leave first: two processes that leave together must not both wait for the other.
            fcntl.lockf(self._handle, fcntl.LOCK_UN)
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            return False
        finally:
            os.close(self._handle)
