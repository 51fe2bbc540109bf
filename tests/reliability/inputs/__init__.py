"""Hostile files by name, for `make` in the cases; each module of this package adds its own."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], None]
"""Writes its files into the case's working folder."""

MAKERS: dict[str, Maker] = {}


def maker(make: Maker) -> Maker:
    """Enter a function under its name, with dashes for underscores."""
    name = make.__name__.replace("_", "-")
    assert name not in MAKERS, f"two makers are named {name}"
    MAKERS[name] = make
    return make


def load_all() -> None:
    """Import every module of this package, so that all makers are known."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
