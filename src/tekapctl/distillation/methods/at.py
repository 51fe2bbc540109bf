"""AT: match attention maps of the student and the teacher.

Zagoruyko and Komodakis, ICLR 2017, equation 2 with activation-based attention.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing
from tekapctl.distillation.methods.losses import attention


@METHODS.register("at")
class ATSpec(MethodSpec):
    """Attention transfer has no settings but its weight."""

    weights = Weights(beta=1000.0)
    requires = Requires(feature_maps=True)
    about = About(
        "Paying More Attention to Attention",
        2017,
        "sum over stages of mean (A(student) - A(teacher))^2, A = the channels' mean square, of unit length",
    )
    name: Literal["at"] = "at"

    def make(self, pair: Pair) -> "AT":
        return AT(self, pair)


class AT(FeatureMapMethod):
    """Squared differences of the attention maps of all stages but the first."""

    pairing = Pairing(first=1)

    def connect(self, number: int, student: Map) -> Float[Tensor, "batch places"]:
        return attention(student)

    def pair_loss(
        self, number: int, ours: Float[Tensor, "batch places"], teacher: Map, batch: Batch
    ) -> Float[Tensor, ""]:
        return (ours - attention(teacher)).square().mean()
