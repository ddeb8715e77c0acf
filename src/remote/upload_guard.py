"""A watchman beside a cloud job: uploads the results when the job's process is killed without warning.

A process that runs out of memory, or that its launcher kills because another rank died, cannot upload
anything itself. The watchman is a small process in a session of its own (the launcher's signals to the
job's group do not reach it) that waits for its parent to say that all is done, or to be gone.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER_OF_PACKAGE = Path(__file__).resolve().parent.parent.parent
DONE = b"done"
POLL_SECONDS = 1.0


@contextmanager
def upload_guard(url: str, folder: Path) -> Iterator[None]:
    """While the block runs, the death of this process uploads `folder` to `url`."""
    watchman = subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), url, str(folder.absolute())],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=FOLDER_OF_PACKAGE,
    )
    try:
        yield
    finally:
        try:
            watchman.communicate(DONE)
        except OSError:  # somebody has killed it
            watchman.wait()


def main(parent: int, url: str, folder: Path) -> int:
    """Wait for the parent's word or its end; upload in the second case."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ends with its parent, and not before
    # The pipe alone would not tell: a helper process that the parent forked may hold its other end.
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            if os.read(sys.stdin.fileno(), len(DONE)) == DONE:
                return 0
            break
    from ..base.errors import UserError
    from ..logger import get_logger, setup_logger
    from .object_storage import open_store
    from .results_upload import upload_results

    setup_logger()
    get_logger().warning("process %d ended without a word: upload what it left", parent)
    try:
        upload_results(open_store(url, "train_url"), folder, failed=False)
    except UserError:
        return 2  # logged
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
