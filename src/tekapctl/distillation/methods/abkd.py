"""ABKD: the alpha-beta divergence between softened probabilities.

Wang et al., ICML 2025; the divergence is that of Cichocki, Cruces and Amari, "Generalized Alpha-Beta Divergences and
Their Application to Robust Nonnegative Matrix Factorization", Entropy 2011.
"""

from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import Logits, OfEach
from tekapctl.settings import Temperature

Exponent = Annotated[float, Field(ge=-5, le=5)]
_ZERO = 1e-2
"""Smaller exponents count as 0: the divergence hardly changes there, and float32 is too coarse for the quotients."""


@METHODS.register("abkd")
class ABKDSpec(MethodSpec):
    """ABKD's settings; the defaults are those of the published example for resnet56 > resnet20."""

    weights = Weights(beta=32.0)
    requires = Requires(logits=True)
    about = About(
        "ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        2025,
        "-1 / (a * b) * sum over classes of [p^a * q^b - a / (a + b) * p^(a + b) - b / (a + b) * q^(a + b)], "
        "p and q = softmax(teacher / T) and softmax(student / T), a = teacher_exponent, b = student_exponent",
        "exponents 1 and 0 are KL(teacher || student), 0 and 1 are KL(student || teacher); no factor T^2; weight and "
        "exponents were published per pair",
    )
    name: Literal["abkd"] = "abkd"
    teacher_exponent: Exponent = Field(0.8, description="Exponent of the teacher's probabilities, the paper's alpha.")
    student_exponent: Exponent = Field(0.3, description="Exponent of the student's probabilities, the paper's beta.")
    temperature: Temperature = Field(4.0, description="Temperature of the softmax.")

    @model_validator(mode="after")
    def _check_sum(self) -> "ABKDSpec":
        if abs(self.teacher_exponent + self.student_exponent) < _ZERO:
            raise ValueError("teacher_exponent + student_exponent divides the loss and must not be 0")
        return self

    def make(self, pair: Pair) -> "ABKD":
        return ABKD(self)


class ABKD(Method):
    """The alpha-beta divergence from teacher to student."""

    couples_samples = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        spec = self.spec
        ours, theirs = ((knowledge.logits / spec.temperature).log_softmax(1) for knowledge in (student, teacher))
        return alpha_beta_divergence(ours, theirs, spec.teacher_exponent, spec.student_exponent).mean()


def alpha_beta_divergence(log_student: Logits, log_teacher: Logits, alpha: float, beta: float) -> OfEach:
    """The divergence of each sample from log-probabilities; its limit if an exponent or their sum is 0.

    The general formula is, class by class, `[g(alpha + beta) - g(alpha)] / beta` with
    `g(x) = q^(alpha + beta) * [(p / q)^x - 1] / x`. Every 0 has a limit: `g(0)` is `q^(alpha + beta) * log(p / q)`, and
    at beta 0 the quotient is the derivative of `g`.
    """
    log_ratio = log_teacher - log_student
    log_base = (alpha + beta) * log_student

    def g(x: float) -> Tensor:
        if abs(x) < _ZERO:
            return log_base.exp() * log_ratio
        return ((log_base + x * log_ratio).exp() - log_base.exp()) / x

    if abs(beta) >= _ZERO:
        return ((g(alpha + beta) - g(alpha)) / beta).sum(1)
    if abs(alpha) >= _ZERO:
        return (((log_base + alpha * log_ratio).exp() * log_ratio - g(alpha)) / alpha).sum(1)
    return log_ratio.square().sum(1) / 2
