"""Checkpoints as files: written whole or not at all, read with what travels in them."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import mindspore as ms
import numpy as np
from mindspore import nn

from ..base.atomic import unfinished_name
from ..base.errors import UserError, one_line
from .model_file import check_file

STATE_KEY = "train_state"
_CHECKSUM_MARK, _CHECKSUM_BYTES = b"crc_num", 17  # mark and 10 bytes
_LONGEST_NAME, _LONGEST_STATE = 1000, 1 << 20  # bytes


def save_checkpoint(parameters, path: Path, state: dict | None = None) -> None:
    """Write parameters (a cell, or a list of parameters) so that `path` is whole or is not there.

    Numbers that are not finite are no weights: nothing is written then.

    The file is written beside its place, synced and renamed. `state` travels in it as JSON, and MindSpore's
    CRC-32 of it all stands at its end.

    Raises:
        UserError: a parameter is not finite, the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    listed = list(parameters.get_parameters()) if isinstance(parameters, nn.Cell) else parameters
    if (odd := not_finite({parameter.name: parameter.asnumpy() for parameter in listed})) is not None:
        raise UserError(
            f"{path}: not written: {odd} holds values that are not finite. Earlier checkpoints are untouched: go on "
            "from one, with a lower lr or with clip_norm"
        )
    temporary = unfinished_name(path, ".ckpt")
    unfinished = temporary.with_suffix(".tmp")  # MindSpore's own while it writes; it stays after a failure
    if not isinstance(parameters, nn.Cell):
        parameters = [{"name": parameter.name, "data": parameter} for parameter in parameters]
    append = {STATE_KEY: json.dumps(state)} if state is not None else None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _without_mindspores_log():
            ms.save_checkpoint(parameters, str(temporary), append_dict=append, crc_check=True)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, RuntimeError, ValueError) as error:
        for file in (temporary, unfinished):
            file.unlink(missing_ok=True)
        reason = one_line(error)
        raise UserError(
            f"{path}: the checkpoint could not be written ({reason}); free disk space there or choose "
            "another ckpt_path. Earlier checkpoints are untouched"
        ) from error


def not_finite(values: Mapping[str, np.ndarray]) -> str | None:
    """The name of the first array with a number that is not finite; None where all are."""
    return next((name for name, value in values.items() if not np.isfinite(value).all()), None)


def read_good_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """As `read_checkpoint`, of a file whose numbers are finite.

    Raises:
        UserError: as of `read_checkpoint`, or a number that is not finite.
    """
    values, state = read_checkpoint(path)
    if (odd := not_finite(values)) is not None:
        raise UserError(f"{path}: {odd} holds values that are not finite; choose an earlier checkpoint")
    return values, state


def time_of(path: Path) -> float:
    """When a checkpoint was written, in seconds since 1970: as its state says, else by the file system.

    Only the heads of the file's entries are read. The state's time goes with the file and knows no zones.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        saved_at = float(json.loads(_entry(path, STATE_KEY)).get("saved_at"))
        if math.isfinite(saved_at):
            return saved_at
    return path.stat().st_mtime


def _entry(path: Path, name: str) -> bytes:
    """The content of an entry of a checkpoint, a protocol buffer of entries {1: name, 2: {3: content}}.

    Raises:
        ValueError: there is none, or the file is not of this form.
    """
    with path.open("rb") as handle:
        end = path.stat().st_size
        while handle.tell() < end:
            _, length = _varint(handle), _varint(handle)
            next_entry = handle.tell() + length
            _, length = _varint(handle), _varint(handle)
            if length <= _LONGEST_NAME and handle.read(length) == name.encode():
                _, length = _varint(handle), _varint(handle)
                tensor = handle.read(min(length, _LONGEST_STATE))
                text = tensor.replace(b"\0", b"")  # MindSpore writes four bytes a letter
                return text[text.index(b"{") : text.rindex(b"}") + 1]
            handle.seek(next_entry)
    raise ValueError(f"{path}: no {name}")


def _varint(handle: IO[bytes]) -> int:
    """A number of seven bits a byte, the lowest first (protocol buffers' encoding)."""
    value = 0
    for shift in range(0, 70, 7):
        byte = handle.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("no number")


@contextmanager
def _without_mindspores_log() -> Iterator[None]:
    """Without what MindSpore's Python side logs of an error that it raises too: the user gets one line, ours."""
    log = logging.getLogger(f"ME.mindspore.log.{os.getpid()}")
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def read_checkpoint(path: str | Path) -> tuple[dict[str, np.ndarray], dict | None]:
    """Values of a `.ckpt` by name, and the training state that ours carry (None in others).

    Raises:
        UserError: no such file, or it is truncated or no checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    check_file(path)
    try:
        with _without_mindspores_log():
            loaded = ms.load_checkpoint(str(path), crc_check=_has_checksum(path))
    except (ValueError, RuntimeError, TypeError, OSError, KeyError) as error:
        raise UserError(
            f"{path}: not a readable MindSpore checkpoint (truncated or another format); copy it again or "
            "choose another file"
        ) from error
    values = {name: value.asnumpy() for name, value in loaded.items() if isinstance(value, ms.Parameter)}
    state = loaded.get(STATE_KEY)
    try:
        state = _checked_state(json.loads(state)) if isinstance(state, str) else None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its training state is damaged; use it as pretrained_checkpoint") from error
    return values, state


def _checked_state(state) -> dict:
    """The training state if a run can go on from it; ValueError otherwise."""
    if not isinstance(state, dict):
        raise ValueError("no object")
    for key, least in (
        ("step", 0),
        ("steps_per_epoch", 1),
        ("best_epoch", 0),
        ("updates", 0),
        ("evaluated_epoch", 0),
    ):
        value = state.get(key, least)
        if type(value) is not int or not least <= value < 2**31:
            raise ValueError(f"{key} {value!r}")
    sums = state.get("epoch_sums") or [0.0] * 6
    if not isinstance(sums, list) or len(sums) != 6:
        raise ValueError("epoch_sums")
    for value in (*sums, state.get("best_map", 0.0)):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"a sum or best_map {value!r}")
    for key in ("options", "run_options"):
        if not isinstance(state.get(key, {}), dict):
            raise ValueError(key)
    if not isinstance(state.get("best_path", ""), str):
        raise ValueError("best_path")
    return state


def _has_checksum(path: Path) -> bool:
    """Whether MindSpore's checksum stands at the end of a checkpoint; published ones have none."""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - _CHECKSUM_BYTES))
        return handle.read().startswith(_CHECKSUM_MARK)
