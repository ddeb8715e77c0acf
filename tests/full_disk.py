"""A small file system of its own, filled up to so many bytes: what writers do when the disk is full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class SmallDisk:
    """A tmpfs at `root`; `leave` fills it up to so many bytes."""

    def __init__(self, root: Path):
        self.root = root
        self._ballast = root / "ballast"

    def leave(self, free: int) -> None:
        """Fill the disk so that about `free` bytes (whole pages) can still be written."""
        self._ballast.unlink(missing_ok=True)
        state = os.statvfs(self.root)
        size = state.f_bavail * state.f_frsize - -(-free // PAGE) * PAGE
        with self._ballast.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, size)

    def empty(self) -> None:
        """Free what `leave` filled."""
        self._ballast.unlink(missing_ok=True)

    def files(self) -> dict[str, bytes]:
        """Content of every file but the ballast, by its path below the root."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path != self._ballast
        }


@contextmanager
def small_disk(root: Path, size: str = "8m") -> Iterator[SmallDisk | None]:
    """A tmpfs of `size` mounted at `root`; None where this process may not mount."""
    root.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(root)]
    try:
        mounted = (
            os.geteuid() == 0 and subprocess.run(words, capture_output=True, check=False).returncode == 0
        )
    except OSError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
