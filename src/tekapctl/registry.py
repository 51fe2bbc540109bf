"""Names for the parts that a user chooses by name: networks, methods, data sets."""

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
    """The error for a name that is not known, with the nearest ones that are."""
    folded = {candidate.casefold(): candidate for candidate in known}
    near = [folded[hit] for hit in difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.5)]
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(known) or 'none'}."
    return UsageError(f"There is no {kind} named {name!r}.", remedy)


class Registry(Generic[T]):
    """Maps names to parts; a part registers itself where it is defined.

    Args:
        kind: What the parts are, for error messages ("network").
        package: The package whose modules hold the parts; all are imported at the first look-up, so that a new part
            is one new file.
        fits: Whether an object of the user's own, named `module:Name`, may be such a part; None takes no such names.
    """

    def __init__(self, kind: str, package: str, fits: Callable[[object], bool] | None = None) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._complete = False
        self._fits = fits

    def register(self, name: str) -> Callable[[T], T]:
        """Enter the decorated part under `name`."""

        def enter(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"two {self.kind}s are named {name!r}")
            self._parts[name] = part
            return part

        return enter

    def __getitem__(self, name: str) -> T:
        """The part named `name`.

        Raises:
            UsageError: There is none; the message names the nearest.
        """
        self._import_all()
        if ":" in name and self._fits is not None:
            return self._foreign(name, self._fits)
        if name not in self._parts:
            raise unknown_name(self.kind, name, self.names())
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._import_all()
        return isinstance(name, str) and (name in self._parts or (self._fits is not None and ":" in name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def names(self) -> list[str]:
        """All names, in the order of registration within each file, files in alphabetical order."""
        self._import_all()
        return list(self._parts)

    def _foreign(self, name: str, fits: Callable[[object], bool]) -> T:
        """A part of the user's own, `package.module:Name`; importing it runs its module.

        Raises:
            UsageError: The name is not trusted, or names no such part.
        """
        found: Any = load_code(self.kind, name, "Write it as package.module:Name, importable from this folder.")
        if not fits(found):
            raise UsageError(f"{name!r} is not a {self.kind}.", "See docs/methods.md for an example.")
        part: T = found
        return part

    def _import_all(self) -> None:
        if not self._complete:
            self._complete = True
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
                importlib.import_module(f"{self._package}.{module.name}")


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
