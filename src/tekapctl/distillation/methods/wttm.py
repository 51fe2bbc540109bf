"""WTTM: match the student's probabilities at temperature 1 to a power of the teacher's.

Zheng and Yang, ICLR 2024: KD without the temperature on the student's side (TTM), and each sample weighted by the
teacher's power sum (WTTM).
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.losses import kl_of_each


@METHODS.register("wttm")
class WTTMSpec(MethodSpec):
    """WTTM's settings; the defaults are those of the published example for vgg13 > vgg8."""

    weights = Weights(beta=4.0)
    requires = Requires(logits=True)
    about = About(
        "Knowledge Distillation Based on Transformed Teacher Matching",
        2024,
        "U * KL(p^g / U || softmax(student)), p = softmax(teacher), g = exponent, U = sum over classes of p^g; "
        "without U in front it is TTM",
        "weight and exponent were published per pair; the defaults are the example for vgg13 > vgg8 beside CRD at 0.8; "
        "TTM's example has weight 45 and exponent 0.1",
    )
    name: Literal["wttm"] = "wttm"
    exponent: float = Field(0.2, gt=0, le=10, description="Power of the teacher's probabilities, 1 / T.")
    weighted: bool = Field(True, description="Weight each sample by the teacher's power sum; false gives TTM.")

    def make(self, pair: Pair) -> "WTTM":
        return WTTM(self)


class WTTM(Method):
    """KL from the transformed teacher to the student."""

    couples_samples = False

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        powers = self.spec.exponent * teacher.logits.log_softmax(1)
        divergence = kl_of_each(student.logits.log_softmax(1), powers.log_softmax(1))
        return (powers.exp().sum(1) * divergence if self.spec.weighted else divergence).mean()
