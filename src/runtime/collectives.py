"""What the ranks of a job tell each other outside the training step; a single process talks to itself."""

import contextlib
import errno
import os
import socket
import zlib
from datetime import datetime
from itertools import count
from pathlib import Path

import numpy as np

from ..base.errors import UserError, refusal
from .device import Runtime

# An image holds Python's global lock for about 1.3 ms and a core for about 22 (benchmarks/data_path.py), so that more
# threads than this would wait for the lock.
MOST_DATA_THREADS = 16


def gather_rows(runtime: Runtime, table: np.ndarray) -> np.ndarray:
    """The rows of all ranks' tables, rank after rank, on every rank.

    Args:
        runtime: this process's place.
        table: (n,) structured rows of a multiple of 4 bytes; n may differ between ranks.
    """
    if runtime.group_size == 1:
        return table
    from mindspore import Tensor, ops

    gather = ops.AllGather()
    counts = gather(Tensor(np.array([len(table)], np.int32))).asnumpy()
    words = table.dtype.itemsize // 4
    most = max(1, int(counts.max()))  # collectives need one shape on all ranks
    padded = np.zeros((most, words), np.int32)
    padded[: len(table)] = np.ascontiguousarray(table).view(np.int32).reshape(len(table), words)
    gathered = gather(Tensor(padded)).asnumpy().reshape(runtime.group_size, most, words)
    rows = np.concatenate([part[:count] for part, count in zip(gathered, counts)])
    return np.ascontiguousarray(rows).view(table.dtype).reshape(-1)


def gather_numbers(runtime: Runtime, numbers: list[int]) -> np.ndarray:
    """The numbers (n below 2^31, as many on each rank) of all ranks, (group_size, n) int32; also a barrier."""
    row = np.array(numbers, np.int32)
    if runtime.group_size == 1:
        return row[None]
    from mindspore import Tensor, ops

    return ops.AllGather()(Tensor(row)).asnumpy().reshape(runtime.group_size, len(numbers))


def agree(runtime: Runtime, number: int) -> int:
    """Rank 0's number (below 2^31), on every rank; also a barrier."""
    if runtime.group_size == 1:
        return number
    from mindspore import Tensor, ops

    return int(ops.Broadcast(0)((Tensor(np.array([number], np.int32)),))[0].asnumpy()[0])


def new_folder(parent: str | Path, runtime: Runtime) -> Path:
    """Make the folder of a run in `parent`, named by the moment; the same on every rank.

    Rank 0 makes it, and never takes one that is there: of runs that start in the same second one gets the name, the
    next one a number behind it. The other ranks hear the name (and make their own where they share no disk).

    Raises:
        UserError: it cannot be made.
    """
    name, refused = "", None
    if runtime.is_master:
        try:
            name = _make_folder(Path(parent))
        except OSError as error:  # the others wait for the name
            refused = UserError(refusal(error, parent))
    name = agree_name(runtime, name)
    if not name:
        raise refused or UserError(f"{parent}: rank 0 could not make a folder there")
    return Path(parent) / name


def _make_folder(parent: Path) -> str:
    moment = f"{datetime.now():%Y-%m-%d_time_%H_%M_%S}"
    for number in count(1):
        name = moment if number == 1 else f"{moment}_{number}"
        with contextlib.suppress(FileExistsError):
            parent.mkdir(parents=True, exist_ok=True)
            (parent / name).mkdir()
            return name
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
    raise AssertionError("unreachable")


def agree_name(runtime: Runtime, name: str) -> str:
    """Rank 0's name (ASCII, below 64 letters), on every rank; also a barrier."""
    if runtime.group_size == 1:
        return name
    from mindspore import Tensor, ops

    letters = np.zeros(64, np.int32)
    letters[: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
    told = ops.Broadcast(0)((Tensor(letters),))[0].asnumpy()
    return bytes(told.astype(np.uint8)).rstrip(b"\0").decode("ascii")


def data_threads(runtime: Runtime, asked: int = 0) -> int:
    """Threads that read and prepare this rank's images.

    Args:
        runtime: this process's place; every rank of a job must call, as ranks on the same cores of a host share them.
        asked: as many as this; 0: this rank's share of the cores that it may run on, up to `MOST_DATA_THREADS`.
    """
    if asked:
        return asked
    cores = _own_cores()
    place = zlib.crc32(f"{socket.gethostname()} {sorted(cores)}".encode()) >> 1
    sharing = int((gather_numbers(runtime, [place]) == place).sum())
    return min(MOST_DATA_THREADS, max(1, len(cores) // sharing))


def _own_cores() -> set[int]:
    """Cores that this process may run on; all of them where the system does not tell."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:
        return set(range(os.cpu_count() or 1))
