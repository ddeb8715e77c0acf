"""Shared set-up of the tests: the CPU kernel guard must be in place before MindSpore is imported."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

from src.runtime.device import prepare_environment
from tests.tiny import write_tiles

prepare_environment()


# Each takes minutes of a core, the longest first: with a file of them left for the end one process would wait.
LONGEST = [
    f"test_{name}.py"
    for name in ("ascend_dry_run", "distributed", "stop_request", "readme", "export", "ascend_export", "trainer",
                 "installed", "full_disk", "transfer", "operators", "compile_cache", "option_table", "deploy_scripts",
                 "train_step")
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first (pytest-xdist keeps the order under `--no-loadscope-reorder`)."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="session", autouse=True)
def cpu() -> None:
    """Choose the device before any kernel runs: MindSpore refuses it later, and programs that a test calls choose one.

    Not while this file is imported: MindSpore sets OMP_NUM_THREADS=1 for the children of its process, and the processes
    of pytest-xdist are children.
    """
    import mindspore as ms

    ms.set_device("CPU")


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> Path:
    """A data set of six training and three validation images, in the layout of `data_dir`; nobody writes there."""
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set")


@pytest.fixture(scope="session")
def compile_cache(tmp_path_factory) -> Path:
    """Folder of compiled training steps, of all processes of this test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture
def own_tiles(tmp_path) -> Path:
    """The same data set, to be changed."""
    return write_tiles(tmp_path / "set")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the small files that tests read."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def opencv4(pytestconfig) -> str:
    """An interpreter with OpenCV 4, in an environment of its own in pytest's cache folder."""
    folder = pytestconfig.cache.mkdir("opencv4")
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        words = [str(python), "-m", "pip", "install", "-q", "opencv-python-headless>=4.9,<5"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"OpenCV 4 cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        (folder / "ready").touch()
    return str(python)
