"""Our side of the published numbers, a file for each kind of method."""

import importlib
import pkgutil


def load_all() -> None:
    """Import all of them, which registers their functions."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
