"""What a format of exported networks is; each is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from tekapctl.commands.export.subject import Subject
from tekapctl.errors import UsageError
from tekapctl.registry import Registry

Runner = Callable[[Tensor], Tensor]
"""Normalised float32 images `[batch, c, h, w]` on the CPU, to logits `[batch, classes]`."""


class Format(ABC):
    """A way to write a network to a file and to read it back; each has a subclass in its own file."""

    suffix: ClassVar[str]
    """How names of its files end."""

    @abstractmethod
    def check(self) -> None:
        """See to it that what it needs is installed.

        Raises:
            UsageError: Something is missing.
        """

    @abstractmethod
    def encode(self, subject: Subject) -> bytes:
        """The content of the file.

        Raises:
            TekapctlError: The network cannot be expressed in the format.
        """

    @abstractmethod
    def open(self, path: Path) -> Runner:
        """The network in a file, as those who get it will run it, on the CPU."""

    @abstractmethod
    def runtime(self) -> str:
        """What runs it, with its version."""

    @abstractmethod
    def snippet(self, file: str) -> str:
        """Python that, after `images` (a float32 array `[batch, c, h, w]`), gives `classes` and `logits`.

        Args:
            file: The file's name.
        """


FORMATS: Registry[type[Format]] = Registry("export format", "tekapctl.commands.export")


def choose(name: str | None, path: Path) -> tuple[str, Format]:
    """The format of this name, else the one whose files end as the path does; with its name.

    Raises:
        UsageError: There is none, or its files end in another way.
    """
    if name is None:
        found = [known for known in FORMATS if FORMATS[known].suffix == path.suffix]
        if not found:
            known = ", ".join(f"{FORMATS[known].suffix} ({known})" for known in FORMATS)
            raise UsageError(f"{path.name!r} does not end as files of any format do.", f"Name one of {known}.")
        name = found[0]
    chosen = FORMATS[name]
    if path.suffix != chosen.suffix:
        raise UsageError(
            f"Files of the format {name} end in {chosen.suffix}, and {path.name!r} does not.",
            f"Write to {path.with_suffix(chosen.suffix).name!r}, or choose another --format.",
        )
    return name, chosen()
