"""What a tracker of experiments is; each is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tekapctl.registry import Registry

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


TRACKERS: Registry[type[Tracker]] = Registry("tracker", "tekapctl.tracking")


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
