"""Names for the parts that a user chooses by name: networks, methods, data sets."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from tekapctl.errors import UsageError
from tekapctl.trust import load_code

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
