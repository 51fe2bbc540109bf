"""FSP: match the Gram matrices between neighbouring stages.

Yim et al., CVPR 2017, equations 1 and 2. As published, the student's features are first trained with this loss alone,
and then with the labels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import InitFeatureMapMethod, Map, Pairing, of_one_size
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


class FSP(InitFeatureMapMethod):
    """The init stage's loss; 0 after it."""

    pairing = Pairing(equal_channels=True)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Any:
        """The student, for the pairs, and its flows."""
        return student, flows([pair.student for pair in self.pairs(student, teacher)])

    def compare(self, ours: Any, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over neighbouring stages."""
        student, of_student = ours
        of_teacher = flows([pair.teacher for pair in self.pairs(student, teacher)])
        losses = [(one - other).square().mean() for one, other in zip(of_student, of_teacher, strict=True)]
        return sum(losses, start=student.logits.new_zeros(()))


def flows(maps: Sequence[Map]) -> list[Float[Tensor, "batch _upper _lower"]]:
    """The flow of each two neighbouring stages."""
    return [flow(*neighbours) for neighbours in pairwise(maps)]


def flow(lower: Map, upper: Map) -> Float[Tensor, "batch _upper _lower"]:
    """The mean products of the channels of two stages, at the smaller stage's size."""
    below, above = (maps.flatten(2) for maps in of_one_size(lower, upper))
    return torch.bmm(above, below.transpose(1, 2)) / below.shape[2]
