"""What a tracker of experiments is; each is one file beside this one."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tekapctl.registry import Registry

logger = logging.getLogger(__name__)

Metrics = Mapping[str, float | int]

PATIENCE = 30.0
"""Seconds that a run, once it has ended, waits for its trackers."""


class Tracker(ABC):
    """Follows one run. Its calls come in turn, in a thread of its own, and may raise whatever goes wrong."""

    @classmethod
    @abstractmethod
    def check(cls) -> None:
        """See to it that what it needs is there.

        Raises:
            UsageError: Something is missing.
        """

    @abstractmethod
    def start(self, run: str, folder: Path, spec: dict[str, Any], epochs: int) -> int:
        """The run begins, or goes on.

        Args:
            run: Its id.
            folder: Its folder.
            spec: What it trains with.
            epochs: Epochs that it has behind it.

        Returns:
            How many of these epochs the tracker has already; the others are logged to it next.
        """

    @abstractmethod
    def log(self, metrics: Metrics, epoch: int) -> None:
        """An epoch ended.

        Args:
            metrics: Its line of metrics.jsonl.
            epoch: Its number, from 1.
        """

    @abstractmethod
    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended; `status` in its summary is `finished`, `failed` or `interrupted`."""


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "tekapctl.commands.tracking")


def in_groups(metrics: Metrics) -> dict[str, float]:
    """Metrics by the names under which trackers show them side by side: `train/loss`, `test/top1`."""
    found = {}
    for name, value in metrics.items():
        part, _, rest = name.partition("_")
        if name != "epoch":
            found[f"{part}/{rest}" if part in ("train", "test") and rest else name] = float(value)
    return found


def flat(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of nested tables by dotted path."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


_SOON = 2.0
"""Seconds of waiting that need no word."""

Call = Callable[[Tracker], None]


class Follower:
    """A tracker in its thread; the first thing that goes wrong is reported, and is the last thing it is asked.

    Args:
        name: The tracker's name.
        tracker: The tracker.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
    ) -> None:
        self.name = name
        self._tracker = tracker
        self._left = False
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        # A daemon: what a tracker still waits for must not keep the program from ending.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def ask(self, call: Call | None) -> None:
        """Have the tracker called, after all that it was asked before; None is the end."""
        self._calls.put(call)

    def ended(self, seconds: float) -> bool:
        """Whether the thread has ended, waiting at most so long."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def leave(self) -> None:
        """What goes wrong from now on is nobody's concern."""
        self._left = True

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call(self._tracker)
            except BaseException as error:  # whatever a tracker trips over, even an exit, the run goes on
                if self._left:
                    return
                what = " ".join(str(error).split()) or type(error).__name__
                logger.info(f"the tracker {self.name} failed and is switched off; the run goes on: {what}")
                return


class Trackers:
    """All trackers of a run.

    Args:
        names: Their names.
    """

    def __init__(
        self,
        names: Iterable[str],
    ) -> None:
        self._followers = [Follower(name, TRACKERS[name]()) for name in names]

    @staticmethod
    def check(names: Iterable[str]) -> None:
        """See to it that what trackers need is there.

        Raises:
            UsageError: There is no such tracker, or something is missing.
        """
        for name in names:
            TRACKERS[name].check()

    def start(self, run: str, folder: Path, spec: dict[str, Any], history: Sequence[Metrics]) -> None:
        """The run begins, or goes on after the epochs of a history."""
        epochs = [dict(metrics) for metrics in history]

        def begin(tracker: Tracker) -> None:
            known = tracker.start(run, folder, spec, len(epochs))
            for metrics in epochs[known:]:
                tracker.log(metrics, int(metrics["epoch"]))

        self._ask(begin)

    def log(self, metrics: Metrics) -> None:
        """An epoch ended."""
        entry = dict(metrics)
        self._ask(lambda tracker: tracker.log(entry, int(entry["epoch"])))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The run ended; waits for the trackers, but not for ever."""
        self._ask(lambda tracker: tracker.finish(summary))
        self._ask(None)
        try:
            late = self._not_ended(min(_SOON, PATIENCE))
            if late:
                logger.info(f"waiting for {_names(late)}, {PATIENCE:.0f} seconds at most")
                late = self._not_ended(PATIENCE - _SOON)
        except KeyboardInterrupt:
            late = self._not_ended(0)
        for follower in late:
            follower.leave()
        if late:
            logger.info(f"{_names(late)} had not taken all of the run and was left behind; metrics.jsonl has it")

    def _not_ended(self, seconds: float) -> list[Follower]:
        deadline = time.monotonic() + seconds
        return [each for each in self._followers if not each.ended(deadline - time.monotonic())]

    def _ask(self, call: Call | None) -> None:
        for follower in self._followers:
            follower.ask(call)


def _names(followers: Iterable[Follower]) -> str:
    return "the tracker " + ", ".join(each.name for each in followers)
