"""Logging: each module has a logger of its own below `tekapctl`; commands decide where the lines go."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

ROOT = logging.getLogger("tekapctl")


@contextmanager
def level(level: int) -> Iterator[None]:
    """Log nothing of this package below a level until the context ends."""
    before = ROOT.level
    ROOT.setLevel(level)
    try:
        yield
    finally:
        ROOT.setLevel(before)


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Suppress warnings, and log records below ERROR, of libraries and of this package."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
