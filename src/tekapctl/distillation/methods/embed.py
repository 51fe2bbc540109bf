"""Embed: predict the teacher's embedding through projectors; the teacher needs no classes.

Chen et al., "Improved Feature Distillation via Projector Ensemble", NeurIPS 2022, equation 3; with one projector it is
the usual regression of features.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.method import TwoSidedMethod


@METHODS.register("embed")
class EmbedSpec(MethodSpec):
    """The settings of embedding regression."""

    weights = Weights(beta=10.0)
    requires = Requires(embedding=True)
    about = About(
        "Improved Feature Distillation via Projector Ensemble",
        2022,
        "2 - 2 cos(mean of projections, teacher embedding)",
        "The teacher may have other classes than the dataset, or none. The default weight is ours.",
    )
    name: Literal["embed"] = "embed"
    projectors: int = Field(3, ge=1, le=64, description="Number of linear layers whose outputs are averaged.")
    distance: Literal["cosine", "mse"] = Field("cosine", description="Distance of the projection from the embedding.")

    def make(self, pair: Pair) -> "Embed":
        """Embedding regression for a pair of networks."""
        return Embed(self, pair)


class Embed(TwoSidedMethod):
    """The distance of the averaged projections from the teacher's embedding.

    Several projections end with a ReLU, unless the teacher has embeddings with negative entries, as transformers do.
    """

    couples_samples = False

    def __init__(self, spec: EmbedSpec, pair: Pair) -> None:
        super().__init__()
        self.spec = spec
        widths = pair.student.embedding.shape[1], pair.teacher.embedding.shape[1]
        self.projectors = nn.ModuleList(nn.Linear(*widths) for _ in range(spec.projectors))
        self.rectified = spec.projectors > 1 and not bool((pair.teacher.embedding < 0).any())

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Float[Tensor, "batch width"]:
        """The mean of the projections."""
        projections = [projector(student.embedding) for projector in self.projectors]
        if self.rectified:
            projections = [F.relu(projection) for projection in projections]
        return torch.stack(projections).mean(0)

    def compare(self, ours: Float[Tensor, "batch width"], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The mean over samples."""
        if self.spec.distance == "mse":
            return F.mse_loss(ours, teacher.embedding)
        return 2 - 2 * F.cosine_similarity(ours, teacher.embedding).mean()
