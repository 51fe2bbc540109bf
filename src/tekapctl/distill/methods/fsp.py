"""FSP: how the student's channels flow from stage to stage is how the teacher's do.

Yim et al., "A Gift from Knowledge Distillation", CVPR 2017, equations 1 and 2. As published the student's features are
first trained by this loss alone, and then by the labels.
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distill.methods import (
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
from tekapctl.distill.methods.feature_maps import Map, pair_maps, require_equal_channels


@METHODS.register("fsp")
class FSPSpec(MethodSpec):
    """FSP's settings."""

    weights = Weights(beta=50.0)
    requires = Requires(feature_maps=True)
    about = About(
        "A Gift from Knowledge Distillation",
        2017,
        "first stage: sum over neighbouring stages of mean (F(student) - F(teacher))^2, F = mean product of channels",
        "needs networks whose maps have equal numbers of channels; in the first stage only",
    )
    name: Literal["fsp"] = "fsp"
    init_epochs: InitEpochs = 30

    def make(self, pair: Pair) -> "FSP":
        """FSP for networks of equal widths."""
        require_equal_channels(self.name, pair_maps(pair.student.feature_maps, pair.teacher.feature_maps))
        return FSP(self.init_epochs)


class FSP(Method):
    """The first stage's loss; nothing after it.

    Args:
        init_epochs: Epochs of the first stage.
    """

    couples_samples = False

    init_only = True

    def __init__(self, init_epochs: int) -> None:
        super().__init__()
        self.init_epochs = init_epochs

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over neighbouring stages."""
        pairs = pair_maps(student.feature_maps, teacher.feature_maps)
        ours, theirs = flows([pair.student for pair in pairs]), flows([pair.teacher for pair in pairs])
        losses = [(one - other).square().mean() for one, other in zip(ours, theirs, strict=True)]
        return sum(losses, start=student.logits.new_zeros(()))

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Nothing: what it does is done in the first stage."""
        return student.logits.new_zeros(())


def flows(maps: list[Map]) -> list[Float[Tensor, "batch _upper _lower"]]:
    """The mean products of the channels of each two neighbouring stages, at the smaller one's places."""
    found = []
    for lower, upper in pairwise(maps):
        size = (min(lower.shape[2], upper.shape[2]), min(lower.shape[3], upper.shape[3]))
        below, above = (F.adaptive_avg_pool2d(x, size) for x in (lower, upper))
        found.append(torch.bmm(above.flatten(2), below.flatten(2).transpose(1, 2)) / (size[0] * size[1]))
    return found
