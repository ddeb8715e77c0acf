"""Results of a job to its bucket: what is new there, tried again, under a lock of the host."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ..base.errors import UserError
from ..logger import get_logger
from .host_lock import host_lock
from .object_storage import PARTIAL, TRANSFERS, FolderStore, redact

UPLOAD_WAITS = (1.0, 5.0)  # seconds before the second and the third attempt


def _for_each(function: Callable, keys) -> None:
    """Call for each key in a few threads; the first error stops what has not begun."""
    with ThreadPoolExecutor(TRANSFERS) as pool:
        try:
            for _ in pool.map(function, keys):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def upload_results(store, folder: Path, failed: bool) -> None:
    """Upload the results, one process of the host at a time; an error is logged, and raised unless the run failed."""
    try:
        with _output_lock(folder):
            count = upload(store, folder)
        get_logger().info("train_url: uploaded %d files of %s", count, folder)
    except UserError as error:
        get_logger().error("the results in %s could not be uploaded: %s", folder, error)
        if not failed:
            raise


def _output_lock(folder: Path):
    """One process of the host at a time moves results between `folder` and their store."""
    return host_lock(folder.parent / f"{folder.name}.upload")


def upload(store, folder: Path) -> int:
    """Upload what the store does not hold yet, in a few attempts; the number of files uploaded.

    Raises:
        UserError: the last attempt failed too.
    """
    for wait in (*UPLOAD_WAITS, None):
        try:
            return _upload_once(store, folder)
        except (UserError, OSError) as error:
            message = str(error) if isinstance(error, UserError) else f"{store.option}: {redact(error)}"
            if wait is None:
                raise UserError(message) from None
            get_logger().warning("upload failed, next attempt in %g s: %s", wait, message)
            time.sleep(wait)
    raise AssertionError("unreachable")


def _upload_once(store, folder: Path) -> int:
    files = [key for key in FolderStore(folder, "output_path").contents() if not _is_temporary(key)]
    if not files:
        return 0
    if hasattr(store, "put_all"):
        store.put_all(folder)
        return len(files)
    there = store.contents()
    wanted = [key for key in files if not (key in there and store.holds(there[key], folder / key))]
    _for_each(lambda key: store.put(folder / key, key), wanted)
    return len(wanted)


def _is_temporary(key: str) -> bool:
    if any(part.startswith(".exporting-") for part in PurePosixPath(key).parts):
        return True
    name = PurePosixPath(key).name
    return name.startswith(".") and name.endswith((PARTIAL, ".writing", ".writing.ckpt", ".writing.tmp"))
