"""EA-KD: KD that gives more weight to samples with teacher outputs of high entropy.

Su et al., ICCV 2025: each sample's KL is weighted by the teacher's entropy, and more if the student's entropy is high
as well. DKD, MLKD and ReviewKD can use the same weights.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import Bound, entropy_weights, softened_kl_of_each
from tekapctl.settings import Temperature


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
        return EAKD(self)


class EAKD(Method):
    """KD with a weight for each sample."""

    couples_samples = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        spec, logits = self.spec, (student.logits, teacher.logits)
        weights = entropy_weights(*logits, spec.entropy_temperature, spec.entropy_bound)
        return (weights * softened_kl_of_each(*logits, spec.temperature)).mean()
