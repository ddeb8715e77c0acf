"""Shared set-up of the tests: the CPU kernel guard must be in place before MindSpore is imported."""

from pathlib import Path

import pytest

from src.runtime.device import prepare_environment

prepare_environment()

import mindspore as ms  # noqa: E402

# Chosen before any kernel runs: MindSpore refuses to choose a device later, and programs that a test calls do.
ms.set_device("CPU")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the small files that tests read."""
    return Path(__file__).parent / "fixtures"
