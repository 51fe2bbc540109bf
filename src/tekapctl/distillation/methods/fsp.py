"""FSP: match the Gram matrices between neighbouring stages.

Yim et al., CVPR 2017, equations 1 and 2. As published, the student's features are first trained with this loss alone,
and then with the labels.
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing, of_one_size
from tekapctl.distillation.methods.method import InitEpochs


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
        return FSP(self, pair)


class FSP(FeatureMapMethod):
    """The init stage's loss; 0 after it."""

    pairing = Pairing(equal_channels=True)
    init_only = True

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        neighbours = pairwise(self.pairs(student, teacher))
        losses = [
            (flow(lower.student, upper.student) - flow(lower.teacher, upper.teacher)).square().mean()
            for lower, upper in neighbours
        ]
        return sum(losses, start=student.logits.new_zeros(()))

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return student.logits.new_zeros(())


def flow(lower: Map, upper: Map) -> Float[Tensor, "batch _upper _lower"]:
    """The mean products of the channels of two stages, at the smaller stage's size."""
    below, above = (maps.flatten(2) for maps in of_one_size(lower, upper))
    return torch.bmm(above, below.transpose(1, 2)) / below.shape[2]
