"""The KL divergence of each sample, for methods that weigh samples or classes."""

from jaxtyping import Float
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
