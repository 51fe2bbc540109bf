"""Where a run is: the stage of its epoch, how far it has come, and how long it has waited for images."""

import logging
from dataclasses import dataclass, field

from tekapctl.data.batches import Batches
from tekapctl.distillation.objective import Objective
from tekapctl.models import Network
from tekapctl.spec import RunSpec, TeacherSpec
from tekapctl.train.step import Metrics

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run has come: epochs, steps of the current one, seconds with tests; part of its checkpoints.

    The best epoch, counted from 1, has the best top-1 accuracy so far, on the validation set if there is one.
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
    """Measures how long the training loop waits for the images of streamed datasets."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._before = 0.0
        self._is_told = False

    def begin(self) -> None:
        """An epoch begins."""
        self._before = self._batches.seconds_waited

    def share(self, seconds: float) -> float:
        """The fraction of an epoch's time that was waited; the first large one is logged."""
        share = min(1.0, (self._batches.seconds_waited - self._before) / seconds)
        if share > _MUCH and not self._is_told:
            self._is_told = True
            cache = "`data.cache=true` stores them decoded; " if self._batches.are_decoded else ""
            logger.info(
                f"training waits for images {share:.0%} of the time; {cache}`data.workers` sets how many processes "
                "read them"
            )
        return share


class Stages:
    """Puts the network and its objective into the stage of an epoch."""

    def __init__(self, spec: RunSpec, network: Network, objective: Objective) -> None:
        self.spec = spec
        self.network = network
        self.objective = objective
        # A frozen network's batch norms keep their statistics, too.
        self._is_probe = isinstance(spec, TeacherSpec) and spec.linear_probe
        self._after_maps = network.modules_after_feature_maps()
        self._frozen = [p for module in self._after_maps for p in module.parameters() if p.requires_grad]

    def enter(self, epoch: int) -> bool:
        """Set modes and trainable parameters for an epoch, counted from 0; returns whether a new stage begins.

        The init stage leaves alone what comes after the feature maps: only the student's stage trains it.
        """
        is_init = epoch < self.spec.init_epochs
        changed = self.objective.init_stage != is_init
        self.objective.init_stage = is_init
        self.objective.train()
        self.network.train(self.objective.trains_learner and not self._is_probe)
        if is_init:
            for module in self._after_maps:
                module.eval()
        for parameter in self._frozen:
            parameter.requires_grad_(not is_init)
        return changed

    def begins_student(self, epoch: int) -> bool:
        """Whether the student's stage begins with an epoch, after an init stage."""
        return epoch == self.spec.init_epochs > 0

    def learning_rate(self, epoch: int, share: float | int = 0) -> float:
        """The learning rate after a share, below 1, of an epoch, counted from 0.

        In an init stage it is the same for a whole epoch.
        """
        init = self.spec.init_epochs
        return self.spec.init_lr(epoch) if epoch < init else self.spec.rate(epoch - init + share)
