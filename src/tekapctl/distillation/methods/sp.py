"""SP: match the similarities between samples.

Tung and Mori, ICCV 2019, equation 4.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Map


@METHODS.register("sp")
class SPSpec(MethodSpec):
    """SP's settings."""

    weights = Weights(beta=3000.0)
    requires = Requires(feature_maps=True)
    about = About(
        "Similarity-Preserving Knowledge Distillation",
        2019,
        "sum of (G(student) - G(teacher))^2 / batch^2, G = row-normalised products of the samples' maps",
    )
    name: Literal["sp"] = "sp"

    def make(self, pair: Pair) -> "SP":
        return SP(self)


class SP(Method):
    """Squared differences of the batch's similarity matrices at the last stage."""

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return similarity_loss(student.feature_maps[-1], teacher.feature_maps[-1])


def similarity_loss(student: Map, teacher: Map) -> Float[Tensor, ""]:
    """Equation 4 for one pair of layers."""
    ours, theirs = (F.normalize(maps.flatten(1) @ maps.flatten(1).T, dim=1) for maps in (student, teacher))
    return (theirs - ours).square().mean()
