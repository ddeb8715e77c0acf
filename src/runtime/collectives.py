"""What the ranks of a job tell each other outside the training step; a single process talks to itself."""

import os
import socket
import zlib
from datetime import datetime

import numpy as np

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


def start_time(runtime: Runtime) -> str:
    """The moment at which rank 0 started, as folders of runs are named; the same on every rank."""
    seconds = agree(runtime, int(datetime.now().timestamp()))
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d_time_%H_%M_%S}"


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
