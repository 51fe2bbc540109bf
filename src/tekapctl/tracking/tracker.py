"""Experiment trackers: the interface, and the threads that they run in."""

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tekapctl.registry import Registry

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float | int]

PATIENCE = 30.0
"""Seconds that a finished run waits for its trackers."""


class Tracker(ABC):
    """Logs one run. All calls come from one thread, in order, and may raise anything."""

    @classmethod
    @abstractmethod
    def check(cls) -> None:
        """Check that the tracker can be used.

        Raises:
            UsageError: A package or a login is missing.
        """

    @abstractmethod
    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        """A run starts, or resumes after some epochs.

        Returns:
            How many of these epochs the tracker already has; the others are logged next.
        """

    @abstractmethod
    def log(self, metrics: Metrics, epoch: int) -> None:
        """Log the metrics of an epoch, which are counted from 1."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended with the `status` in its summary: `finished`, `failed` or `interrupted`."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "tekapctl.tracking")


def grouped(metrics: Metrics) -> dict[str, float]:
    """Metrics under grouped names, as trackers display them: `train/loss`, `test/top1`."""
    return {
        re.sub("^(train|test)_(?=.)", r"\1/", name): float(value) for name, value in metrics.items() if name != "epoch"
    }


_SILENT_SECONDS = 2.0
"""Seconds of waiting before a message is logged."""

Call = Callable[[Tracker], None]


class _Worker(threading.Thread):
    """A tracker in its own thread. Its first failure is logged and ends it."""

    def __init__(self, tracker: str) -> None:
        # A daemon thread, so that a tracker that hangs does not keep the program from exiting.
        super().__init__(name=tracker, daemon=True)
        self.calls: SimpleQueue[Call | None] = SimpleQueue()  # None ends the thread
        self.is_abandoned = False  # whether failures are ignored from now on
        self._tracker = TRACKERS[tracker]()
        self.start()

    def run(self) -> None:
        """Make the queued calls."""
        while (call := self.calls.get()) is not None:
            try:
                call(self._tracker)
            except BaseException as error:  # whatever a tracker raises, even SystemExit, the run continues
                if not self.is_abandoned:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    logger.info(f"the tracker {self.name} failed and is switched off; the run continues: {reason}")
                return


class Trackers:
    """All trackers of a run, by their names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._workers = [_Worker(name) for name in names]

    @staticmethod
    def check(names: Iterable[str]) -> None:
        """Check that trackers can be used.

        Raises:
            UsageError: A tracker is unknown, or a package or a login is missing.
        """
        for name in names:
            TRACKERS[name].check()

    def start(self, run: str, folder: Path, spec: dict[str, Any], history: Sequence[Metrics]) -> None:
        """A run starts, or resumes after the epochs of a history."""
        epochs = [dict(metrics) for metrics in history]

        def begin(tracker: Tracker) -> None:
            known = tracker.start(run, folder, spec, len(epochs))
            for metrics in epochs[known:]:
                tracker.log(metrics, int(metrics["epoch"]))

        self._call(begin)

    def log(self, metrics: Metrics) -> None:
        """Log an epoch."""
        entry = dict(metrics)
        self._call(lambda tracker: tracker.log(entry, int(entry["epoch"])))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run; waits for the trackers, up to `PATIENCE` seconds."""
        self._call(lambda tracker: tracker.finish(summary))
        self._call(None)
        try:
            late = self._unfinished(min(_SILENT_SECONDS, PATIENCE))
            if late:
                logger.info(f"waiting for {_names(late)}, up to {PATIENCE:.0f} seconds")
                late = self._unfinished(PATIENCE - _SILENT_SECONDS)
        except KeyboardInterrupt:
            late = self._unfinished(0)
        for worker in late:
            worker.is_abandoned = True
        if late:
            logger.info(f"{_names(late)} did not finish in time and may lack part of the run; metrics.jsonl has it all")

    def _unfinished(self, seconds: float) -> list[_Worker]:
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return [worker for worker in self._workers if worker.is_alive()]

    def _call(self, call: Call | None) -> None:
        for worker in self._workers:
            worker.calls.put(call)


def _names(workers: Iterable[_Worker]) -> str:
    return "the tracker " + ", ".join(worker.name for worker in workers)
