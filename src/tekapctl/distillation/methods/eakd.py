"""EA-KD: KD that gives more weight to samples with teacher outputs of high entropy.

Su et al., "Entropy-based Adaptive Knowledge Distillation", ICCV 2025: each sample's KL is weighted by the
teacher's entropy, and more if the student's entropy is high as well. DKD, MLKD and ReviewKD can use the same weights.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import softened_kl_of_each
from tekapctl.settings import Temperature

Bound = Literal["log-classes"] | Annotated[float, Field(ge=1e-3, le=1e6)]
"""Divisor of an entropy; `log-classes` is the entropy's largest possible value."""


@METHODS.register("eakd")
class EAKDSpec(MethodSpec):
    """EA-KD's settings; the defaults are the published code's on CIFAR-100.

    That code divides the student's entropy by 100 there, and on ImageNet by its largest value, log(classes).
    """

    weights = Weights(gamma=0.1, beta=0.9)
    requires = Requires(logits=True)
    about = About(
        "Entropy-based Adaptive Knowledge Distillation",
        2025,
        "T^2 * w * KL(softmax(teacher / T) || softmax(student / T)), w = H_t * (1 + H_s / bound) / 2, "
        "H = entropy of softmax(logits / entropy_temperature), without gradient",
        "dkd and mlkd take the same weights with entropy_weights=true",
    )
    name: Literal["eakd"] = "eakd"
    temperature: Temperature = Field(4.0, description="Temperature of the softmax.")
    entropy_temperature: Temperature = Field(3.0, description="Temperature of the entropies.")
    entropy_bound: Bound = Field(100.0, description="Divisor of the student's entropy.")

    def make(self, pair: Pair) -> "EAKD":
        """EA-KD for any pair."""
        return EAKD(self.temperature, self.entropy_temperature, self.entropy_bound)


class EAKD(Method):
    """KD with a weight for each sample; `EAKDSpec` describes the arguments."""

    couples_samples = False

    def __init__(self, temperature: float, entropy_temperature: float, bound: Bound) -> None:
        super().__init__()
        self.temperature = temperature
        self.entropy_temperature = entropy_temperature
        self.bound = bound

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The mean over samples."""
        weights = entropy_weights(student.logits, teacher.logits, self.entropy_temperature, self.bound)
        return (weights * softened_kl_of_each(student.logits, teacher.logits, self.temperature)).mean()


@torch.no_grad()
def entropy_weights(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperature: float = 3.0,
    bound: Bound = "log-classes",
) -> Float[Tensor, " batch"]:
    """`H_t * (1 + H_s / bound) / 2` of each sample."""
    largest = math.log(student.shape[1]) if bound == "log-classes" else bound
    return entropy(teacher, temperature) * (1 + entropy(student, temperature) / largest) / 2


def entropy(logits: Float[Tensor, "batch classes"], temperature: float) -> Float[Tensor, " batch"]:
    """Entropy in nats of each sample's softened probabilities."""
    log_probabilities = (logits / temperature).log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)
