"""Which code from outside this package may be imported: what the command line or the calling program names.

A weights file, a run or a spec may name a network, a method or a data set as `module:Name`. Importing a module runs it,
so such a name counts only if the user gave the same name to this command, or said `--trust-code`.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from inspect import getmodule
from pathlib import Path

from tekapctl.errors import UsageError

_VARIABLE = "TEKAPCTL_TRUSTED"
"""Holds the trusted names for this process and those it starts; `*` trusts all."""
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NEVER = frozenset(sys.stdlib_module_names) | {"numpy", "pip", "setuptools", "tekapctl", "timm", "torch", "torchvision"}
"""Packages whose functions are nobody's own networks, methods or data sets, whoever names them."""


def allow(names: Iterable[str]) -> None:
    """Trust these `module:Name`s, in this process and those that it starts."""
    known = _trusted() | set(names)
    os.environ[_VARIABLE] = ",".join(sorted(known))


def allow_everything() -> None:
    """Trust whatever files name (`--trust-code`)."""
    allow(["*"])


def allow_named_in(values: object) -> None:
    """Trust every `module:Name` in a text, or in the texts of a list or table that the user gave."""
    if isinstance(values, str):
        allow(_NAME.findall(values))
    elif isinstance(values, Mapping):
        for value in values.values():
            allow_named_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            allow_named_in(value)


def load_code(kind: str, name: str, remedy: str) -> object:
    """The object that a trusted `module:Name` names; importing it runs its module.

    The working folder is searched last, so that a file in it replaces no installed module.

    Args:
        kind: What it is, for errors ("network").
        name: `package.module:Name`.
        remedy: What to do if there is no such object.

    Raises:
        UsageError: The name is not trusted, belongs to Python or to a library, or there is no such object.
    """
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if package in _NEVER:
        raise UsageError(f"The {kind} {name!r} is not yours: {package} is a library.", remedy)
    if not _trusted() & {name, "*"}:
        raise UsageError(
            f"The {kind} {name!r} is code that would be imported, and this command does not name it.",
            "If you trust it, add --trust-code or give the same name as an option.",
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module that is run may raise anything
        raise UsageError(f"The {kind} {name!r} cannot be imported: {error}.", remedy) from None
    home = getmodule(found)
    if home is None or home.__name__.partition(".")[0] != package:
        raise UsageError(f"The {kind} {name!r} is not defined in {package}.", remedy)
    return found


def _trusted() -> set[str]:
    return set(filter(None, os.environ.get(_VARIABLE, "").split(",")))
