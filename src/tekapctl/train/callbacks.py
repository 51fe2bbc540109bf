"""Training callbacks: the progress file of a run, and stopping after a signal."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from tekapctl.errors import TekapctlError
from tekapctl.store.run import Run
from tekapctl.train.step import Metrics

logger = logging.getLogger(__name__)


@runtime_checkable
class Callback(Protocol):
    """Called as training proceeds."""

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins with epoch `first_epoch` (from 0) of `epochs`, each of `steps` steps."""

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued; do not read its results, which would wait for the device."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""


@runtime_checkable
class Checkpointer(Protocol):
    """Saves what a run has reached."""

    def after_step(self) -> None:
        """A step was queued; raise to stop the run."""

    def after_epoch(self, metrics: Metrics, is_best: bool) -> None:
        """An epoch ended; it may be the best so far."""


SECONDS = 2.0
"""Least time between updates of the progress file within an epoch."""


class NullCallback:
    """Does nothing: the callback of all processes but the main one, and what others are derived from."""

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None:
        """Training begins."""

    def on_step(self, epoch: int, step: int) -> None:
        """A step was queued."""

    def on_epoch(self, metrics: Metrics) -> None:
        """An epoch ended."""


class ProgressFile:
    """Writes the run's progress to its folder, for `tekapctl watch`, before it calls another callback."""

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
        with suppress(OSError):  # a full disk here must not end the run
            self.run.write_progress(note)


class StoppedError(TekapctlError):
    """A signal stopped the run, whose state is saved."""

    def __init__(self, run: str, where: str, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name} {where}; the run is saved.", f"Resume it with `tekapctl resume {run}`.")
        self.exit_code = 128 + number


class Interruption:
    """Whether the run received a signal to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """On SIGINT or SIGTERM, stop after the current step; on a second one, stop at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return

        def hear(number: int, _: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number
            logger.info(
                "stopping after this step; interrupt again to stop at once and lose what came after the last checkpoint"
            )

        before: dict[int, Any] = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
        if hasattr(signal, "SIGHUP"):
            # Closing the terminal does not end the run.
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
