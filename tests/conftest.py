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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of these folders and files as slow."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in SLOW or item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines logged so far."""
    with recorded() as lines:
        yield lines
