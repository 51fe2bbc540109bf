"""Trackers beside a run: each in a thread of its own, so that none can slow the run or end it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tekapctl.tracking.tracker import PATIENCE, TRACKERS, Metrics, Tracker

_SOON = 2.0
"""Seconds of waiting that need no word."""

Call = Callable[[Tracker], None]


class Follower:
    """A tracker in its thread; the first thing that goes wrong is reported, and is the last thing it is asked.

    Args:
        name: The tracker's name.
        tracker: The tracker.
        say: Is told what went wrong.
    """

    def __init__(self, name: str, tracker: Tracker, say: Callable[[str], None]) -> None:
        self.name = name
        self._tracker = tracker
        self._say = say
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
                self._say(f"the tracker {self.name} failed and is switched off; the run goes on: {what}")
                return


class Trackers:
    """All trackers of a run.

    Args:
        names: Their names.
        say: Is told what goes wrong.
    """

    def __init__(self, names: Iterable[str], say: Callable[[str], None]) -> None:
        self._say = say
        self._followers = [Follower(name, TRACKERS[name](), say) for name in names]

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
                self._say(f"waiting for {_names(late)}, {PATIENCE:.0f} seconds at most")
                late = self._not_ended(PATIENCE - _SOON)
        except KeyboardInterrupt:
            late = self._not_ended(0)
        for follower in late:
            follower.leave()
        if late:
            self._say(f"{_names(late)} had not taken all of the run and was left behind; metrics.jsonl has it")

    def _not_ended(self, seconds: float) -> list[Follower]:
        deadline = time.monotonic() + seconds
        return [each for each in self._followers if not each.ended(deadline - time.monotonic())]

    def _ask(self, call: Call | None) -> None:
        for follower in self._followers:
            follower.ask(call)


def _names(followers: Iterable[Follower]) -> str:
    return "the tracker " + ", ".join(each.name for each in followers)
