"""DIST: Pearson correlation of the student's and the teacher's probabilities, over classes and over samples.

Huang et al., NeurIPS 2022, equations 8 to 10.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires
from tekapctl.settings import Temperature, Weight


@METHODS.register("dist")
class DISTSpec(MethodSpec):
    """DIST's settings."""

    requires = Requires(logits=True)
    about = About(
        "Knowledge Distillation from A Stronger Teacher",
        2022,
        "T^2 * [between_weight * mean (1 - r(rows)) + within_weight * mean (1 - r(columns))], r = Pearson's "
        "correlation of softened probabilities",
    )
    name: Literal["dist"] = "dist"
    between_weight: Weight = Field(2.0, description="Weight of the correlation over classes.")
    within_weight: Weight = Field(2.0, description="Weight of the correlation over samples.")
    temperature: Temperature = Field(4.0, description="Temperature of the softmax.")

    def make(self, pair: Pair) -> "DIST":
        return DIST(self)


class DIST(Method):
    """Correlations between both networks' softened probabilities."""

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        spec = self.spec
        ours, theirs = ((knowledge.logits / spec.temperature).softmax(1) for knowledge in (student, teacher))
        between, within = 1 - correlation(ours, theirs), 1 - correlation(ours.T, theirs.T)
        return spec.temperature**2 * (spec.between_weight * between.mean() + spec.within_weight * within.mean())


def correlation(one: Float[Tensor, "rows columns"], other: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
    """Pearson's correlation of the rows of two matrices, row by row."""
    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    # Added as published; a lower bound would differ for a thousand classes.
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + 1e-8)
