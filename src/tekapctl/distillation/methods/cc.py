"""CC: match pairwise correlations between samples.

Peng et al., ICCV 2019, as RepDistiller computes it: products of the distances of neighbouring samples of the batch.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.method import TwoSidedMethod


@METHODS.register("cc")
class CCSpec(MethodSpec):
    """CC's settings."""

    weights = Weights(beta=0.02)
    requires = Requires(embedding=True)
    about = About(
        "Correlation Congruence for Knowledge Distillation",
        2019,
        "mean over neighbours i, i+1 of d_i . d_{i+1}, d = |embedded student - embedded teacher|",
    )
    name: Literal["cc"] = "cc"
    embedding_width: int = Field(128, ge=1, le=65536, description="Width of the space of the comparison.")

    def make(self, pair: Pair) -> "CC":
        return CC(self, pair)


class CC(TwoSidedMethod):
    """Correlation of the differences between both networks' embeddings."""

    def __init__(self, spec: CCSpec, pair: Pair) -> None:
        super().__init__(spec)
        self.embed_student = nn.Linear(pair.student.embedding.shape[1], spec.embedding_width)
        self.embed_teacher = nn.Linear(pair.teacher.embedding.shape[1], spec.embedding_width)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Float[Tensor, "batch width"]:
        """The student's embedding in the space of the comparison."""
        found: Tensor = self.embed_student(student.embedding)
        return found

    def compare(self, ours: Float[Tensor, "batch width"], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The mean over neighbours; 0 for a batch of one."""
        difference = (ours - self.embed_teacher(teacher.embedding)).abs()
        products = (difference[:-1] * difference[1:]).sum(1)
        return products.sum() / max(1, len(products))
