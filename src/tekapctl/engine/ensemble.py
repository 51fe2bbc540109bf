"""Distillation from several real teachers: what augmented teachers claim to replace."""

from collections.abc import Sequence

import torch
from torch import nn

from tekapctl.data.batches import Batch
from tekapctl.engine.objective import Distillation, Objective, Parts
from tekapctl.knowledge import Knowledge


class Ensemble(Objective):
    """The mean of the losses under each teacher, so that their number does not change the weight of what is distilled.

    Each teacher has augmented teachers and a method's trainable parts of its own. You et al., "Learning from Multiple
    Teacher Networks", KDD 2017, with equal weights.

    Args:
        members: The distillation from each teacher; the cross-entropy is the first one's.
    """

    def __init__(self, members: Sequence[Distillation]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for member in members:
            self.needs |= member.needs

    @property
    def trains_learner(self) -> bool:
        """Whether the learner is trained now."""
        for member in self.distillations:
            member.first_stage = self.first_stage
        return any(member.trains_learner for member in self.distillations)

    def forward(self, learner: Knowledge, batch: Batch) -> Parts:
        """The cross-entropy, and the mean of each other part."""
        found = []
        for member in self.distillations:
            member.first_stage = self.first_stage
            member.clock = self.clock
            found.append(member(learner, batch))
        parts: Parts = {}
        for name in dict.fromkeys(name for each in found for name in each):
            values = [each[name] for each in found if name in each]
            parts[name] = values[0] if name == "cross_entropy" else torch.stack(values).mean()
        return parts

    @property
    def distillations(self) -> list[Distillation]:
        """The members."""
        return [member for member in self.members if isinstance(member, Distillation)]


def of_teachers(members: Sequence[Distillation]) -> Objective:
    """One distillation as it is, several as an ensemble."""
    if len(members) == 1:
        return members[0]
    for member in members[1:]:
        member.gamma = 0.0
    return Ensemble(members)
