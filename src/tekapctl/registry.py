"""Registries of parts that a user chooses by name: networks, methods, datasets."""

import difflib
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import getmodule
from pathlib import Path
from typing import Any, Generic, TypeVar

from tekapctl.errors import UsageError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: list[str]) -> UsageError:
    """The error for an unknown name, with similar names."""
    remedy = did_you_mean(name, known) or f"Known: {', '.join(known) or 'none'}."
    return UsageError(f"There is no {kind} named {name!r}.", remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names up to three similar names; empty if there are none."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = [folded[hit] for hit in difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.5)]
    return f"Did you mean {' or '.join(near)}?" if near else ""


class Registry(Generic[T]):
    """Maps names to parts; each part registers itself where it is defined.

    Args:
        kind: What the parts are, for error messages ("network").
        package: The package with the parts; all its modules are imported at the first lookup, so that a new part is one
            new file.
        fits: Checks whether a user's object, named `module:Name`, is such a part. Default: such names are not allowed.
    """

    def __init__(self, kind: str, package: str, fits: Callable[[object], bool] | None = None) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._complete = False
        self._fits = fits

    def register(self, name: str) -> Callable[[T], T]:
        """Register the decorated part under `name`."""

        def enter(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"two {self.kind}s are named {name!r}")
            self._parts[name] = part
            return part

        return enter

    def __getitem__(self, name: str) -> T:
        """The part named `name`.

        Raises:
            UsageError: There is none (the message has similar names), or its name is not trusted.
        """
        self._import_all()
        if ":" in name and self._fits is not None:
            # A user's part; importing it runs its module.
            found: Any = load_code(self.kind, name, "Write it as package.module:Name, importable from this folder.")
            if not self._fits(found):
                raise UsageError(f"{name!r} is not a {self.kind}.", "See docs/methods.md for an example.")
            part: T = found
            return part
        if name not in self._parts:
            raise unknown_name(self.kind, name, self.names())
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._import_all()
        return isinstance(name, str) and (name in self._parts or (self._fits is not None and ":" in name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """All names; files in alphabetical order, parts in the order of registration."""
        self._import_all()
        return list(self._parts)

    def _import_all(self) -> None:
        if not self._complete:
            self._complete = True
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")


_VARIABLE = "TEKAPCTL_TRUSTED"
"""Holds the trusted names, for this process and its children; `*` trusts all."""
_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_NEVER = frozenset(sys.stdlib_module_names) | {"numpy", "pip", "setuptools", "tekapctl", "timm", "torch", "torchvision"}
"""Packages that can never contain a user's networks, methods or datasets."""


def allow(names: Iterable[str]) -> None:
    """Trust these `module:Name`s, in this process and its children."""
    os.environ[_VARIABLE] = ",".join(sorted(_trusted() | set(names)))


def allow_everything() -> None:
    """Trust all names, also those in files."""
    allow(["*"])


def check_trusted(problem: str) -> None:
    """Check that code in files is trusted.

    Raises:
        UsageError: It is not.
    """
    if "*" not in _trusted():
        raise UsageError(problem, "If you trust it, add `trust_code`.")


def allow_named_in(values: object) -> None:
    """Trust every `module:Name` in a string, or in the strings of a list or table, that the user wrote."""
    if isinstance(values, str):
        allow(_NAME.findall(values))
    elif isinstance(values, Mapping):
        for value in values.values():
            allow_named_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            allow_named_in(value)


def load_code(kind: str, name: str, remedy: str) -> object:
    """Import the object of a trusted `module:Name`; this runs its module.

    The working folder is searched last, so a file in it cannot replace an installed module.

    Raises:
        UsageError: The name is not trusted, belongs to Python or to a library, or there is no such object.
    """
    module, _, attribute = name.partition(":")
    package = module.partition(".")[0]
    if package in _NEVER:
        raise UsageError(f"The {kind} {name!r} is not your own code: {package} is a library.", remedy)
    if not _trusted() & {name, "*"}:
        raise UsageError(
            f"The {kind} {name!r} is code that would be imported, but this command does not name it.",
            "If you trust it, add `trust_code` or give the same name as an option.",
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # running a module can raise anything
        raise UsageError(f"The {kind} {name!r} cannot be imported: {error}.", remedy) from None
    home = getmodule(found)
    if home is None or home.__name__.partition(".")[0] != package:
        raise UsageError(f"The {kind} {name!r} is not defined in {package}.", remedy)
    return found


def _trusted() -> set[str]:
    return set(filter(None, os.environ.get(_VARIABLE, "").split(",")))
