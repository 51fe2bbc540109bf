"""KL divergences of single samples, for methods that weight samples or classes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def kl_of_each(
    log_student: Float[Tensor, "batch classes"], log_teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, " batch"]:
    """`KL(teacher || student)` of each sample, from log-probabilities."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def softened_kl_of_each(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, " batch"]:
    """`T^2 * KL(teacher || student)` of each sample, from logits."""
    ours, theirs = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * kl_of_each(ours, theirs)


def against_rest(logits: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"]) -> Float[Tensor, "batch 2"]:
    """Log-probabilities of one class of each sample and of all other classes together."""
    log_probabilities = logits.log_softmax(1)
    chosen = classes.unsqueeze(1)
    # Not minus infinity: with a single class there is no rest, and the difference of two infinities is NaN.
    none = torch.finfo(log_probabilities.dtype).min
    rest = log_probabilities.scatter(1, chosen, none).logsumexp(1, keepdim=True)
    return torch.cat([log_probabilities.gather(1, chosen), rest], dim=1)
