"""Shared set-up of the tests: the CPU kernel guard must be in place before MindSpore is imported."""

from pathlib import Path

import pytest

from src.runtime.device import prepare_environment
from tests.tiny import write_tiles

prepare_environment()

import mindspore as ms  # noqa: E402

# Chosen before any kernel runs: MindSpore refuses to choose a device later, and programs that a test calls do.
ms.set_device("CPU")


@pytest.fixture(scope="session")
def tiles(tmp_path_factory) -> Path:
    """A data set of six training and three validation images, in the layout of `data_dir`; nobody writes there."""
    return write_tiles(tmp_path_factory.mktemp("tiles") / "set")


@pytest.fixture
def own_tiles(tmp_path) -> Path:
    """The same data set, to be changed."""
    return write_tiles(tmp_path / "set")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the small files that tests read."""
    return Path(__file__).parent / "fixtures"
