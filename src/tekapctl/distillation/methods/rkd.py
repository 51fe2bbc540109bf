"""RKD: match distances and angles between samples.

Park et al., CVPR 2019, equations 6 and 8, Huber loss.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.method import TwoSidedMethod
from tekapctl.settings import Weight

Relations = tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch batch"]]


@METHODS.register("rkd")
class RKDSpec(MethodSpec):
    """RKD's settings."""

    requires = Requires(embedding=True)
    about = About(
        "Relational Knowledge Distillation",
        2019,
        "distance_weight * huber(d_s, d_t) + angle_weight * huber(a_s, a_t), d = pairwise distances over their mean, "
        "a = cosines of the angles of all triples",
    )
    name: Literal["rkd"] = "rkd"
    distance_weight: Weight = Field(25.0, description="Weight of the distances.")
    angle_weight: Weight = Field(50.0, description="Weight of the angles.")

    def make(self, pair: Pair) -> "RKD":
        return RKD(self)


class RKD(TwoSidedMethod):
    """Huber losses of distances and of angles between the embeddings of a batch."""

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Relations:
        """The student's distances and angles."""
        return relations(student.embedding)

    def compare(self, ours: Relations, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        theirs = relations(teacher.embedding.detach())
        of_distances, of_angles = (F.smooth_l1_loss(one, other) for one, other in zip(ours, theirs, strict=True))
        return self.spec.distance_weight * of_distances + self.spec.angle_weight * of_angles


def relations(embedding: Float[Tensor, "batch width"]) -> Relations:
    """The distances and angles of a batch."""
    return distances(embedding), angles(embedding)


def distances(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch"]:
    """Distances between all samples, divided by the mean of those above 0; 0 for a batch of one."""
    squares = embedding.square().sum(1)
    squared = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * embedding @ embedding.T
    found = squared.clamp(min=1e-12).sqrt()
    found = found * (1 - torch.eye(len(embedding), device=embedding.device))
    return found / (found.sum() / (found > 0).sum().clamp(min=1)).clamp(min=1e-12)


def angles(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch batch batch"]:
    """Cosines of the angles at each sample between each two others."""
    directions = F.normalize(embedding.unsqueeze(0) - embedding.unsqueeze(1), dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))
