"""A guarantee that nothing is asked of the network."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tekapctl.errors import UsageError

_ASKING = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


class OfflineError(UsageError):
    """Something that may not use the network needs it."""


class _Guard:
    """Refuses connections while `forbidden_for` is not empty."""

    def __init__(self) -> None:
        self.forbidden_for: list[str] = []
        self._is_installed = False

    def install(self) -> None:
        # Audit hooks stay for the life of the process, so there is only one.
        if not self._is_installed:
            sys.addaudithook(self._look)
            self._is_installed = True

    def _look(self, event: str, values: tuple[object, ...]) -> None:
        if self.forbidden_for and event in _ASKING:
            is_local = hasattr(socket, "AF_UNIX") and getattr(values[0], "family", None) == socket.AF_UNIX
            if not is_local:
                raise OfflineError(
                    f"{self.forbidden_for[-1]} needs the network, and --offline forbids it.",
                    "Leave out --offline, or name a file or folder with --from.",
                )


_GUARD = _Guard()


@contextmanager
def no_network(what: str) -> Iterator[None]:
    """In this block no connection is opened and no host is looked up, by no thread and no library.

    Args:
        what: What is done without the network, for the error.

    Raises:
        OfflineError: Something tried to.
    """
    _GUARD.install()
    _GUARD.forbidden_for.append(what)
    try:
        yield
    finally:
        _GUARD.forbidden_for.pop()
