"""AT: match attention maps of the student and the teacher.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2 with activation-based attention.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Map, Pairing


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
        """AT for networks with two feature maps or more."""
        return AT()


class AT(Method):
    """Squared differences of the attention maps of all stages but the first."""

    pairing = Pairing(first=1)
    couples_samples = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over stages."""
        pairs = self.pairs(student, teacher)
        losses = [(attention(pair.student) - attention(pair.teacher)).square().mean() for pair in pairs]
        return sum(losses, start=student.logits.new_zeros(()))


def attention(maps: Map) -> Float[Tensor, "batch places"]:
    """The mean square of the channels at each place, normalized to unit length."""
    return F.normalize(maps.square().mean(1).flatten(1))
