"""AT: the student attends to the places that the teacher attends to.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2 with activation-based attention.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distill.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distill.methods.feature_maps import Map, pair_maps


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
        """AT for networks of two feature maps or more."""
        pair_maps(pair.student.feature_maps, pair.teacher.feature_maps, first=1)
        return AT()


class AT(Method):
    """Squared differences of the attention maps of all stages but the first."""

    couples_samples = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over stages."""
        pairs = pair_maps(student.feature_maps, teacher.feature_maps, first=1)
        losses = [(attention(pair.student) - attention(pair.teacher)).square().mean() for pair in pairs]
        return sum(losses, start=student.logits.new_zeros(()))


def attention(maps: Map) -> Float[Tensor, "batch places"]:
    """The mean square of the channels at each place, of unit length."""
    return F.normalize(maps.square().mean(1).flatten(1))
