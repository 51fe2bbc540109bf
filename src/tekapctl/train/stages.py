"""The stages of a run: an init stage of the method or of learned views, where there is one, then the student's."""

from tekapctl.distillation.objective import Objective
from tekapctl.models import Network
from tekapctl.spec import RunSpec, TeacherSpec


class Stages:
    """Puts the network and its objective into the stage of an epoch.

    Args:
        spec: The run's spec.
        network: The network that is trained.
        objective: Its loss.
    """

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
        """The learning rate within an epoch.

        Args:
            epoch: The epoch, counted from 0.
            share: How much of it is done, below 1. The rate of an init stage is the same for a whole epoch.
        """
        init = self.spec.init_epochs
        return self.spec.init_lr(epoch) if epoch < init else self.spec.rate(epoch - init + share)
