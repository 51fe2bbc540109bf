"""Standard output and error that outlive their readers."""

import errno
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from tekapctl.errors import TekapctlError


class Output:
    """A standard stream that drops what nobody can read any more, instead of ending the program.

    Args:
        stream: The stream.
        must_arrive: Whether anything but a reader who left is an error: a result on a full disk is lost, a line of
            progress is not missed.
    """

    def __init__(self, stream: TextIO, *, must_arrive: bool) -> None:
        self._stream = stream
        self._must_arrive = must_arrive
        self._is_lost = False

    def write(self, text: str) -> int:
        """Write a text, unless the reader is gone."""
        if not self._is_lost:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written, unless the reader is gone."""
        if not self._is_lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def _lose(self, error: OSError | ValueError) -> None:
        self._is_lost = True
        with suppress(OSError, ValueError):
            # Python itself writes the rest of its buffer when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        if self._must_arrive and isinstance(error, OSError) and error.errno != errno.EPIPE:
            raise TekapctlError(
                f"The output cannot be written: {error.strerror}.", "Free space, or write it elsewhere."
            ) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare() -> None:
    """Make standard output and error safe to write to, whatever the program was started with."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, so that no file of ours gets it
    for name, must_arrive in (("stdout", True), ("stderr", False)):
        stream = getattr(sys, name)
        if isinstance(stream, Output):
            continue
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - as long as the program
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Output(stream, must_arrive=must_arrive))
