"""An offline model under CANN's own Python interface (pyACL), written from its documentation."""

import atexit
from pathlib import Path

import numpy as np

_DONE_BEFORE = 100002  # acl.init in a process that has called it
_HUGE_PAGES_FIRST = 0
_TO_DEVICE, _TO_HOST = 1, 2
# aclDataType
_TYPES = {0: np.float32, 1: np.float16, 2: np.int8, 3: np.int32, 4: np.uint8, 9: np.int64}


class AclModel:
    """One input and any outputs, of fixed shapes; buffers on the card are made once.

    Args:
        acl: the module.
        path: the `.om`.
        device: number of the card.

    Raises:
        RuntimeError: a function of CANN fails, or the model has another input or output than arrays of fixed shape.
    """

    def __init__(self, acl, path: Path, device: int):
        self.acl, self.device = acl, device
        code = acl.init()
        if code != _DONE_BEFORE:
            _check(code, "acl.init")
        _check(acl.rt.set_device(device), "acl.rt.set_device")
        self.model = _result(acl.mdl.load_from_file(str(path)), "acl.mdl.load_from_file")
        atexit.register(self._release)
        description = acl.mdl.create_desc()
        _check(acl.mdl.get_desc(description, self.model), "acl.mdl.get_desc")
        count = acl.mdl.get_num_inputs(description)
        if count != 1:
            raise RuntimeError(f"{count} inputs, where an export has one")
        dims = _result(acl.mdl.get_input_dims(description, 0), "acl.mdl.get_input_dims")["dims"]
        self.input_shape = tuple(dims)
        self._input_size = acl.mdl.get_input_size_by_index(description, 0)
        self._inputs = acl.mdl.create_dataset()
        self._input = self._buffer(self._inputs, self._input_size)
        self._outputs = acl.mdl.create_dataset()
        self._results = []
        for index in range(acl.mdl.get_num_outputs(description)):
            dims = _result(acl.mdl.get_output_dims(description, index), "acl.mdl.get_output_dims")["dims"]
            kind = _TYPES.get(acl.mdl.get_output_data_type(description, index))
            if kind is None or min(dims, default=1) < 0:
                raise RuntimeError(f"output {index} is of another type or of no fixed shape")
            size = acl.mdl.get_output_size_by_index(description, index)
            self._results.append((self._buffer(self._outputs, size), size, tuple(dims), kind))

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """The outputs, new arrays, of a contiguous batch.

        Raises:
            ValueError: an input of another size than the model's.
            RuntimeError: a function of CANN fails.
        """
        if batch.nbytes != self._input_size:
            raise ValueError(f"{batch.nbytes} bytes, the file's input has {self._input_size}")
        rt = self.acl.rt
        _check(rt.set_device(self.device), "acl.rt.set_device")  # holds for a thread
        _check(
            rt.memcpy(self._input, self._input_size, batch.ctypes.data, batch.nbytes, _TO_DEVICE),
            "acl.rt.memcpy",
        )
        _check(self.acl.mdl.execute(self.model, self._inputs, self._outputs), "acl.mdl.execute")
        found = []
        for address, size, shape, kind in self._results:
            array = np.empty(shape, kind)
            _check(
                rt.memcpy(array.ctypes.data, array.nbytes, address, min(size, array.nbytes), _TO_HOST),
                "acl.rt.memcpy",
            )
            found.append(array)
        return found

    def _buffer(self, dataset, size: int) -> int:
        """Address of new memory on the card that is part of a dataset."""
        address = _result(self.acl.rt.malloc(size, _HUGE_PAGES_FIRST), "acl.rt.malloc")
        part = self.acl.create_data_buffer(address, size)
        _result(self.acl.mdl.add_dataset_buffer(dataset, part), "acl.mdl.add_dataset_buffer")
        return address

    def _release(self) -> None:
        self.acl.mdl.unload(self.model)
        self.acl.rt.reset_device(self.device)
        self.acl.finalize()


def _check(code: int, function: str) -> None:
    if code:
        raise RuntimeError(f"{function} gives error {code}")


def _result(answer: tuple, function: str):
    value, code = answer
    _check(code, function)
    return value
