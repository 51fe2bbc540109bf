"""Modules of the package's optional parts."""

import importlib
from typing import Any

from tekapctl.errors import UsageError


def require(extra: str, module: str) -> Any:
    """A module that an optional part of the package brings.

    Raises:
        UsageError: It is not installed, or cannot be imported; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"This needs {module.split('.')[0]}, which cannot be imported: {error}.",
            f'Install it with `pip install "tekapctl[{extra}]"`.',
        ) from None
