"""How far a run has come, and how long it has waited for images."""

import logging
from dataclasses import dataclass, field

from tekapctl.data.batches import Batches
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

    Args:
        batches: The training batches.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._before = 0.0
        self._is_told = False

    def begin(self) -> None:
        """An epoch begins."""
        self._before = self._batches.seconds_waited

    def share(self, seconds: float) -> float:
        """The fraction of an epoch's time that was waited; the first large one is logged.

        Args:
            seconds: The time of the epoch.
        """
        share = min(1.0, (self._batches.seconds_waited - self._before) / seconds)
        if share > _MUCH and not self._is_told:
            self._is_told = True
            cache = "`data.cache=true` stores them decoded; " if self._batches.are_decoded else ""
            logger.info(
                f"training waits for images {share:.0%} of the time; {cache}`data.workers` sets how many processes "
                "read them"
            )
        return share
