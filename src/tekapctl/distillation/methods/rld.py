"""RLD: match the teacher's confidence, and its distribution over the classes ranked below the label.

Sun et al., ICCV 2025 (arXiv 2408.07703): sample confidence and masked correlation, so that classes which a wrong
teacher ranks above the label are not learned.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.losses import Labels, Logits, OfEach, against_rest, kl_of_each, softened_kl_of_each
from tekapctl.settings import Epochs, Temperature, Weight

_MASKED = -1e9
"""The logit of a masked class. If all classes are masked, both networks are uniform and the divergence is 0."""


@METHODS.register("rld")
class RLDSpec(MethodSpec):
    """RLD's settings; the paper's alpha and beta are the two weights, and the run's beta weights the sum."""

    requires = Requires(logits=True)
    about = About(
        "Refined Logit Distillation",
        2025,
        "confidence_weight * S^2 * KL(b_t || b_s) + correlation_weight * T^2 * KL(m_t || m_s), "
        "b_t = teacher's highest probability against the rest, b_s = student's of the label against the rest, "
        "m = the classes with teacher logits below the label's",
    )
    name: Literal["rld"] = "rld"
    confidence_weight: Weight = Field(1.0, description="Weight of the sample confidence.")
    correlation_weight: Weight = Field(8.0, description="Weight of the masked correlation.")
    confidence_temperature: Temperature = Field(1.0, description="Temperature of the sample confidence.")
    temperature: Temperature = Field(4.0, description="Temperature of the masked correlation.")
    warmup_epochs: Epochs = Field(20, description="Epochs until the weight reaches 1.")

    def make(self, pair: Pair) -> "RLD":
        return RLD(self, pair)


class RLD(Method):
    """Sample confidence and masked correlation, times a weight that rises."""

    couples_samples = False

    def __init__(self, spec: RLDSpec, pair: Pair) -> None:
        super().__init__(spec)
        self.warmup = pair.warmup(spec.warmup_epochs)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        spec, ours, theirs = self.spec, student.logits, teacher.logits
        confidence = sample_confidence(ours, theirs, batch.labels, spec.confidence_temperature).mean()
        correlation = masked_correlation(ours, theirs, batch.labels, spec.temperature).mean()
        weighted = spec.confidence_weight * confidence + spec.correlation_weight * correlation
        return self.warmup(batch.step) * weighted


def sample_confidence(student: Logits, teacher: Logits, labels: Labels, temperature: float) -> OfEach:
    """Divergence of the student's probability of the label from the teacher's highest, each against its rest."""
    ours = against_rest(student / temperature, labels)
    theirs = against_rest(teacher / temperature, teacher.argmax(1))
    return temperature**2 * kl_of_each(ours, theirs)


def masked_correlation(student: Logits, teacher: Logits, labels: Labels, temperature: float) -> OfEach:
    """Divergence among the classes with teacher logits below the label's; 0 if there is none."""
    masked = teacher >= teacher.gather(1, labels.unsqueeze(1))
    ours, theirs = (logits.masked_fill(masked, _MASKED) for logits in (student, teacher))
    return softened_kl_of_each(ours, theirs, temperature)
