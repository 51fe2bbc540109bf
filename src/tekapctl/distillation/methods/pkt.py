"""PKT: match the probabilities that samples are neighbours.

Passalis and Tefas, ECCV 2018, equations 4 to 7 with the cosine kernel.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.method import TwoSidedMethod

EPSILON = 1e-7


@METHODS.register("pkt")
class PKTSpec(MethodSpec):
    """PKT has no settings but its weight."""

    weights = Weights(beta=30000.0)
    requires = Requires(embedding=True)
    about = About(
        "Learning Deep Representations with Probabilistic Knowledge Transfer",
        2018,
        "mean of p_t log(p_t / p_s), p = rows of (cosine + 1) / 2, of sum 1",
    )
    name: Literal["pkt"] = "pkt"

    def make(self, pair: Pair) -> "PKT":
        return PKT(self)


class PKT(TwoSidedMethod):
    """Divergence between the neighbourhoods of both networks' embeddings."""

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Float[Tensor, "batch batch"]:
        """The student's neighbourhoods."""
        return neighbours(student.embedding)

    def compare(self, ours: Float[Tensor, "batch batch"], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        theirs = neighbours(teacher.embedding.detach())
        return (theirs * ((theirs + EPSILON) / (ours + EPSILON)).log()).mean()


def neighbours(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """Each sample's distribution over its neighbours, including itself."""
    # Unlike that of a square root, the norm's gradient is finite for an embedding of zeros.
    unit = embedding / (embedding.norm(dim=1, keepdim=True) + EPSILON)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)
