"""Stops a run between two steps when it is told to, with nothing lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tekapctl.errors import TekapctlError


class StoppedError(TekapctlError):
    """A signal ended the run; all of it is kept.

    Args:
        run: The run's id.
        where: How far it came.
        number: The signal.
    """

    def __init__(self, run: str, where: str, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name} {where}; all of it is kept.", f"Go on with `tekapctl resume {run}`.")
        self.exit_code = 128 + number


class Interruption:
    """Whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self, say: Callable[[str], None]) -> Iterator[None]:
        """Take SIGINT and SIGTERM as wishes to stop after the step; a second one stops at once.

        Args:
            say: Is told that the wish was heard.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return

        def hear(number: int, _: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number
            say("stopping after this step; once more stops at once, and loses what came after the last checkpoint")

        before: dict[int, Any] = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGHUP"):
            # A terminal that goes away takes no run with it.
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
