"""FitNet: regress a middle feature map of the teacher (the hint) from the student's.

Romero et al., ICLR 2015, equation 3; trained together with the student, as RepDistiller does, not in a stage of its
own, through its connectors for maps of unequal sizes.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import Connector, FeatureMapMethod, Map, Pairing
from tekapctl.errors import UsageError


@METHODS.register("fitnet")
class FitNetSpec(MethodSpec):
    """FitNet's settings."""

    weights = Weights(beta=100.0)
    requires = Requires(feature_maps=True)
    about = About(
        "FitNets: Hints for Thin Deep Nets",
        2015,
        "mean (r(student map) - teacher map)^2, r = convolution, batch norm and ReLU",
    )
    name: Literal["fitnet"] = "fitnet"
    hint_layer: int = Field(2, ge=0, le=16, description="Index of the feature map that is the hint, from 0.")

    def make(self, pair: Pair) -> "FitNet":
        return FitNet(self, pair)


class FitNet(FeatureMapMethod):
    """The hint loss with its regressor.

    Raises:
        UsageError: The networks have no such feature map.
    """

    pairing = Pairing(pooled=False)

    def __init__(self, spec: FitNetSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        pairs = self.pairs(pair.student, pair.teacher)
        if spec.hint_layer >= len(pairs):
            raise UsageError(
                f"There is no stage {spec.hint_layer}: the networks share {len(pairs)}.",
                f"Use `method.hint_layer={len(pairs) - 1}` or less.",
            )
        self.connector = Connector(pairs[spec.hint_layer], relu=True)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> tuple[Knowledge, Map]:
        """The student, for the pairs, and its connected map."""
        return student, self.connector(self.pairs(student, teacher)[self.spec.hint_layer].student)

    def compare(self, ours: tuple[Knowledge, Map], teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        student, found = ours
        return F.mse_loss(found, self.pairs(student, teacher)[self.spec.hint_layer].teacher)
