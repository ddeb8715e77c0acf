"""Shared set-up of the tests: the CPU kernel guard must be in place before MindSpore is imported."""

from pathlib import Path

import pytest

from src.runtime.device import prepare_environment

prepare_environment()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the small files that tests read."""
    return Path(__file__).parent / "fixtures"
