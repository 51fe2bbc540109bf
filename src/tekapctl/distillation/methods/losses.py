"""Losses of logits and of maps that several methods share."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"]
OfEach = Float[Tensor, " batch"]
"""A number for each sample."""
Bound = Literal["log-classes"] | Annotated[float, Field(ge=1e-3, le=1e6)]
"""Divisor of an entropy; `log-classes` is the entropy's largest possible value."""


def kl(student: Logits, teacher: Logits, temperature: float) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || student)` of two batches of logits at temperature T, averaged over the batch."""
    ours, theirs = (F.log_softmax(logits.float() / temperature, dim=1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def kl_of_many(
    student: Logits,
    teacher: Logits,
    augmented: Float[Tensor, "teachers batch classes"],
    weight: float,
    temperature: float,
    *,
    teacher_loss_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """`T^2 * [teacher_loss_weight * KL(teacher || student) + weight * sum of KL(augmented || student)]`.

    KL is linear in its target up to the target's entropy, which has no gradient. So the targets are summed before they
    are compared with the student, and the student's side costs the same for any number of teachers.
    """
    scale = temperature**2 / student.shape[0]
    with torch.no_grad():
        log_targets = F.log_softmax(torch.cat([teacher.float().unsqueeze(0), augmented]) / temperature, dim=2)
        weighted = log_targets.exp()
        weighted[0].mul_(scale * teacher_loss_weight)
        weighted[1:].mul_(scale * weight)
        pooled = weighted.sum(0)
        negative_entropy = torch.dot(weighted.flatten(), log_targets.flatten())
    log_student = F.log_softmax(student.float() / temperature, dim=1)
    return negative_entropy - torch.dot(pooled.flatten(), log_student.flatten())


def kl_of_each(log_student: Logits, log_teacher: Logits) -> OfEach:
    """`KL(teacher || student)` of each sample, from log-probabilities."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def softened_kl_of_each(student: Logits, teacher: Logits, temperature: float) -> OfEach:
    """`T^2 * KL(teacher || student)` of each sample, from logits at temperature T."""
    ours, theirs = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * kl_of_each(ours, theirs)


def standardized(logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
    """`(z - mean(z)) / std(z)` over the classes: Sun et al., "Logit Standardization in KD", CVPR 2024, algorithm 1."""
    logits = logits.float()
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


def against_rest(logits: Logits, classes: Labels) -> Float[Tensor, "batch 2"]:
    """Log-probabilities of one class of each sample and of all other classes together."""
    log_probabilities = logits.log_softmax(1)
    chosen = classes.unsqueeze(1)
    # Not minus infinity: with a single class there is no rest, and the difference of two infinities is NaN.
    none = torch.finfo(log_probabilities.dtype).min
    rest = log_probabilities.scatter(1, chosen, none).logsumexp(1, keepdim=True)
    return torch.cat([log_probabilities.gather(1, chosen), rest], dim=1)


def entropy(logits: Logits, temperature: float) -> OfEach:
    """Entropy in nats of each sample's softened probabilities."""
    log_probabilities = (logits / temperature).log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


@torch.no_grad()
def entropy_weights(student: Logits, teacher: Logits, temperature: float = 3.0, bound: Bound = "log-classes") -> OfEach:
    """EA-KD's weight of each sample, `H_t * (1 + H_s / bound) / 2`, with the entropies `H` at a temperature."""
    largest = math.log(student.shape[1]) if bound == "log-classes" else bound
    return entropy(teacher, temperature) * (1 + entropy(student, temperature) / largest) / 2


def attention(maps: Float[Tensor, "batch _c _h _w"]) -> Float[Tensor, "batch places"]:
    """The mean square of the channels at each place, normalized to unit length."""
    return F.normalize(maps.square().mean(1).flatten(1))
