"""FSP: match the Gram matrices between neighbouring stages.

Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, equations 1 and 2. As published, the student's features are
first trained with this loss alone, and then with the labels.
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import (
    METHODS,
    About,
    Batch,
    InitEpochs,
    Knowledge,
    Method,
    MethodSpec,
    Pair,
    Requires,
    Weights,
)
from tekapctl.distillation.methods.feature_maps import Map, Pairing


@METHODS.register("fsp")
class FSPSpec(MethodSpec):
    """FSP's settings."""

    weights = Weights(beta=50.0)
    requires = Requires(feature_maps=True)
    about = About(
        "A Gift from Knowledge Distillation",
        2017,
        "init stage: sum over neighbouring stages of mean (F(student) - F(teacher))^2, F = mean product of channels",
        "needs networks whose maps have equal numbers of channels; in the init stage only",
    )
    name: Literal["fsp"] = "fsp"
    init_epochs: InitEpochs = 30

    def make(self, pair: Pair) -> "FSP":
        """FSP for networks of equal widths."""
        return FSP(self.init_epochs)


class FSP(Method):
    """The init stage's loss; 0 after it.

    Args:
        init_epochs: Epochs of the init stage.
    """

    pairing = Pairing(equal_channels=True)
    couples_samples = False
    init_only = True

    def __init__(self, init_epochs: int) -> None:
        super().__init__()
        self.init_epochs = init_epochs

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over neighbouring stages."""
        pairs = self.pairs(student, teacher)
        ours, theirs = flows([pair.student for pair in pairs]), flows([pair.teacher for pair in pairs])
        losses = [(one - other).square().mean() for one, other in zip(ours, theirs, strict=True)]
        return sum(losses, start=student.logits.new_zeros(()))

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """0: the method has no loss after the init stage."""
        return student.logits.new_zeros(())


def flows(maps: list[Map]) -> list[Float[Tensor, "batch _upper _lower"]]:
    """The mean products of the channels of neighbouring stages, at the smaller stage's size."""
    found = []
    for lower, upper in pairwise(maps):
        size = (min(lower.shape[2], upper.shape[2]), min(lower.shape[3], upper.shape[3]))
        below, above = (F.adaptive_avg_pool2d(x, size) for x in (lower, upper))
        found.append(torch.bmm(above.flatten(2), below.flatten(2).transpose(1, 2)) / (size[0] * size[1]))
    return found
