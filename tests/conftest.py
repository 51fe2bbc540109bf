"""Shapes in signatures are checked at run time in every test; `logged` gives the lines that were logged."""

import os
from collections.abc import Iterator

# The suite runs a process a core: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from helpers.logs import recorded

install_import_hook("tekapctl", "beartype.beartype")

# How long an example takes depends on what else the machine does.
settings.register_profile("tekapctl", deadline=None)
settings.load_profile("tekapctl")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines logged so far."""
    with recorded() as lines:
        yield lines
