"""The compiled training step kept on disk, so that a second start on the same machine does not compile again.

MindSpore's own cache (`enable_compile_cache`) does not look at what it loads: a graph is found by its number in the
process, and one of another input shape is run as if it fitted, with wrong numbers. So a folder here holds one graph
and is named by a digest of everything that makes it: options, inputs, code and versions.
"""

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np

from ..base.errors import UserError
from ..config import Config

# Options that say where things are and how long a run is, and not what the graph computes.
_NOT_OF_THE_GRAPH = (
    "ann_file", "ann_val_file", "checkpoint_url", "ckpt_interval", "ckpt_path", "compile_cache", "data_dir",
    "data_path", "data_url", "download_path", "enable_modelarts", "eval_interval", "eval_start_epoch",
    "file_name", "is_save_on_master", "keep_checkpoint_max", "load_path", "log_interval", "log_path", "max_steps",
    "modelarts_dataset_unzip_name", "need_modelarts_dataset_unzip", "need_profiler", "num_parallel_workers",
    "output_path", "override_checkpoint", "pretrained", "pretrained_backbone",
    "pretrained_checkpoint", "resume", "resume_yolov4", "run_eval",
    "save_best_ckpt", "tensorboard", "train_url", "transfer_checkpoint_url",
)  # fmt: skip
SOURCE = Path(__file__).resolve().parent.parent  # a graph is made by code of many rooms: all of it counts
_INSIDE = Path("rank_0/graph_cache")  # where MindSpore puts its files
_used: list[Path] = []  # MindSpore keeps the first folder that it is given in a process


class CompileCache:
    """One compiled graph in a folder of its own.

    Args:
        root: folder of all graphs.
        config: the options of the run.
        inputs: shapes and whatever else is not an option and shapes the graph.

    Raises:
        UserError: the folder cannot be written to.
    """

    def __init__(self, root: Path, config: Config, inputs: list):
        try:
            self.folder = Path(root).expanduser() / graph_digest(config, inputs)
            self.folder.mkdir(parents=True, exist_ok=True)
        except RuntimeError as error:
            raise UserError(
                f"compile_cache: {root}: this user has no home folder; give a whole path"
            ) from error
        except OSError as error:
            raise UserError(f"compile_cache: {root} cannot be written to ({error.strerror})") from error

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within the block, the graph that is compiled is taken from the folder, or put there.

        MindSpore works in a copy, and what it writes gets its name when it is whole: runs side by side and killed
        ones do no harm. The second block in a process does nothing.
        """
        if _used:
            yield
            return
        _used.append(self.folder)
        work = Path(tempfile.mkdtemp(prefix=".compiling-", dir=self.folder.parent))
        try:
            inside = work / _INSIDE
            inside.mkdir(parents=True)
            for file in self.folder.iterdir():
                shutil.copy2(file, inside / file.name)
            ms.set_context(enable_compile_cache=True, compile_cache_path=str(work))
            try:
                yield
            finally:
                ms.set_context(enable_compile_cache=False)
            # The graph before the file that says that there is one.
            for file in sorted(inside.iterdir(), key=lambda path: path.suffix == ".hash"):
                file.replace(self.folder / file.name)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def graph_digest(config: Config, inputs: list) -> str:
    """A name for the graph: options that it depends on, inputs, the project's code, versions, processor."""
    parts = {
        "options": {key: config[key] for key in config if key not in _NOT_OF_THE_GRAPH},
        "inputs": inputs,
        "versions": [ms.__version__, np.__version__, platform.python_version(), platform.machine()],
        "kernels": os.environ.get("ONEDNN_MAX_CPU_ISA", ""),
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for path in sorted(SOURCE.rglob("*.py")):
        digest.update(path.relative_to(SOURCE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
