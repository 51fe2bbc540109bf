"""SP: match the similarities between samples.

Tung and Mori, ICCV 2019, equation 4.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Map
from tekapctl.distillation.methods.method import TwoSidedMethod


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


class SP(TwoSidedMethod):
    """Squared differences of the batch's similarity matrices at the last stage."""

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Float[Tensor, "batch batch"]:
        """The student's similarities."""
        return similarities(student.feature_maps[-1])

    def compare(self, ours: Float[Tensor, "batch batch"], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Equation 4 for one pair of layers."""
        return (similarities(teacher.feature_maps[-1]) - ours).square().mean()


def similarities(maps: Map) -> Float[Tensor, "batch batch"]:
    """The products of the samples' maps, in rows of unit length."""
    return F.normalize(maps.flatten(1) @ maps.flatten(1).T, dim=1)
