"""KDSVD: match how singular vectors of the feature maps relate across stages.

Lee, Kim and Song, ECCV 2018: radial basis functions of the right singular vectors of neighbouring stages.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.feature_maps import FeatureMapMethod, Map, Pairing
from tekapctl.distillation.methods.singular_vectors import leading_vectors

Directions = tuple[Float[Tensor, "batch _vectors"], Float[Tensor, "batch _c _vectors"]]
StudentSide = tuple[Knowledge, list[Directions] | None, Bool[Tensor, ""]]
_SPARE = 3
"""Extra singular vectors of the student to choose from, since their order may differ from the teacher's."""


@METHODS.register("kdsvd")
class KDSVDSpec(MethodSpec):
    """KDSVD's settings."""

    requires = Requires(feature_maps=True)
    about = About(
        "Self-supervised Knowledge Distillation Using Singular Value Decomposition",
        2018,
        "sum over neighbouring stages of (R(student) - R(teacher))^2 / batch, R = exp(-(v_i - v_j)^2 / 8) of singular "
        "vectors",
        "needs networks whose maps have equal numbers of channels",
    )
    name: Literal["kdsvd"] = "kdsvd"
    vectors: int = Field(1, ge=1, le=16, description="Singular vectors of each map.")

    def make(self, pair: Pair) -> "KDSVD":
        return KDSVD(self, pair)


class KDSVD(FeatureMapMethod):
    """Differences of the relations between singular vectors, over all stages but the first."""

    pairing = Pairing(first=1, equal_channels=True)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> StudentSide:
        """The student, for the pairs, its directions, and whether its maps are finite."""
        maps = [pair.student for pair in self.pairs(student, teacher)]
        are_finite = torch.stack([each.isfinite().all() for each in student.feature_maps]).all()
        return student, directions(maps, self.spec.vectors + _SPARE), are_finite

    def compare(self, ours: StudentSide, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over neighbouring stages; NaN if the maps are not finite."""
        student, of_student, are_finite = ours
        of_teacher = directions([pair.teacher for pair in self.pairs(student, teacher)], self.spec.vectors)
        if of_student is None or of_teacher is None:
            return student.logits.sum() * torch.nan
        total = student.logits.new_zeros(())
        before: tuple[Tensor, Tensor] | None = None
        for (_, found), (weights, theirs) in zip(of_student, of_teacher, strict=True):
            found = aligned(found, theirs) * weights.unsqueeze(1)
            theirs = theirs * weights.unsqueeze(1)
            if before is not None:
                difference = (relation(found, before[0]) - relation(theirs, before[1])).square()
                total = total + torch.where(difference.isfinite(), difference, 0.0).sum() / len(found)
            before = found, theirs
        return torch.where(are_finite, total, torch.nan)


def directions(maps: Sequence[Map], count: int) -> list[Directions] | None:
    """The main directions of each map; None where the decomposition fails."""
    try:
        return [main_directions(each, count) for each in maps]
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None


def main_directions(maps: Map, count: int) -> Directions:
    """The largest singular values, as a unit vector, and their unit right singular vectors."""
    values, vectors = leading_vectors(maps.flatten(2).transpose(1, 2), count)
    return F.normalize(values, dim=1), F.normalize(vectors, dim=1)


def aligned(
    ours: Float[Tensor, "batch channels more"], theirs: Float[Tensor, "batch channels vectors"]
) -> Float[Tensor, "batch channels vectors"]:
    """For each of the teacher's vectors the student's nearest, with its sign."""
    cosine = ours.transpose(1, 2) @ theirs
    size = cosine.abs()
    return ours @ torch.where(size == size.amax(1, keepdim=True), cosine.sign(), 0.0)


def relation(one: Tensor, other: Tensor) -> Tensor:
    """Radial basis functions of the differences of all channels of two stages."""
    return (-(one.unsqueeze(2) - other.unsqueeze(1)).square() / 8).exp()
