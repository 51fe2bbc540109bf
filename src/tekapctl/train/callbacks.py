"""Who else is told how a run goes on, besides the user."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.runs import Run
from tekapctl.train.step import Metrics
from tekapctl.train.trainer import Callback

logger = logging.getLogger(__name__)

SECONDS = 2.0
"""How often at most a run notes how far it is within its epoch."""


class NullCallback:
    """Tells nobody: the listener of the processes that do not lead."""

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""


class ProgressFile:
    """Notes in the run's folder how far it is, for those who watch it from outside, and passes on what it is told.

    Args:
        run: The run.
        callback: Is told all of it too.
    """

    def __init__(self, run: Run, callback: Callback) -> None:
        self.run = run
        self.callback = callback

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""
        self._epochs, self._steps = epochs, steps
        self._begin()
        self._note(first_epoch, 0)
        self.callback.on_start(epochs, steps, first_epoch)

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""
        self._done += 1
        if time.monotonic() - self._noted > SECONDS:
            self._note(epoch, step + 1)
        self.callback.on_step(epoch, step)

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""
        self._begin()
        self._note(int(metrics["epoch"]), 0)
        self.callback.on_epoch(metrics)

    def _begin(self) -> None:
        self._began, self._done = time.monotonic(), 0

    def _note(self, epoch: int, step: int) -> None:
        self._noted = time.monotonic()
        rate = self._done / max(self._noted - self._began, 1e-9)
        note = {"epoch": epoch, "epochs": self._epochs, "step": step, "steps": self._steps, "steps_per_second": rate}
        with suppress(OSError):  # nobody's run ends for want of a note
            self.run.write_progress(note)


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
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as wishes to stop after the step; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return

        def hear(number: int, _: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number
            logger.info(
                "stopping after this step; once more stops at once, and loses what came after the last checkpoint"
            )

        before: dict[int, Any] = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGHUP"):
            # A terminal that goes away takes no run with it.
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
