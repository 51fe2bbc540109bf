"""Shapes in signatures are checked at run time in every test; `logged` gives the lines that were logged."""

import os
from collections.abc import Iterator
from pathlib import Path

# The suite runs a process a core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from helpers.logs import recorded
from helpers.typechecking import check_signatures

check_signatures("tekapctl")

# How long an example takes depends on what else the machine does.
settings.register_profile("tekapctl", deadline=None)
settings.load_profile("tekapctl")


TESTS = Path(__file__).parent
SLOW = ("cli", "cuda", "distributed", "reliability")
"""Folders of tests that start processes or take whole runs; `make test-fast` leaves them out."""
SLOW_FILES = (
    "test_matrix",
    "test_resuming",
    "test_training",
    "test_many_students",
    "test_teaching",
    "test_diagnosis",
    "test_other_teachers",
)


def is_slow(path: Path) -> bool:
    """Whether a file or folder has only slow tests."""
    return path.stem in SLOW_FILES or any(path.is_relative_to(TESTS / folder) for folder in SLOW)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no slow tests where they are left out: what they import takes a while."""
    return True if "not slow" in config.option.markexpr and is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of these folders and files as slow."""
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines logged so far."""
    with recorded() as lines:
        yield lines
