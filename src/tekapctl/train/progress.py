"""How far a run has come, and how long it has waited for images."""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tekapctl.data.batch import Batch
from tekapctl.train.step import Metrics

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come; part of its checkpoints.

    Attributes:
        epoch: Epochs done.
        step: Steps done of the current epoch.
        best_epoch: The epoch, from 1, with the best top-1 accuracy so far, on the validation set if there is one.
        best_top1: That accuracy, as a fraction.
        seconds: Time spent on the epochs done, including their tests.
        history: The metrics of the epochs done.
    """

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_top1: float = -1.0
    seconds: float = 0.0
    history: list[Metrics] = field(default_factory=list)

    @property
    def last(self) -> Metrics:
        """The last epoch's metrics."""
        return self.history[-1]


_MUCH = 0.2
"""A larger fraction of the time waiting for images is worth a note."""


class Waiting:
    """Measures how long the training loop waits for the images of streamed datasets.

    Attributes:
        seconds: The time waited in the current epoch.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_told = False

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the time until each is there is added."""
        asked = time.perf_counter()
        for batch in batches:
            self.seconds += time.perf_counter() - asked
            yield batch
            asked = time.perf_counter()

    def share(self, seconds: float) -> float:
        """The fraction of an epoch's time that was waited; the first large one is logged.

        Args:
            seconds: The time of the epoch.
        """
        share = min(1.0, self.seconds / seconds)
        if share > _MUCH and not self._is_told:
            self._is_told = True
            logger.info(
                f"training waits for images {share:.0%} of the time; `data.cache=true` stores them decoded, "
                "`data.workers` sets the number of processes that decode them"
            )
        return share
