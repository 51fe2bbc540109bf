"""FitNet: a middle feature map of the student, through a convolution, is to be the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, equation 3; trained together with the student, as
RepDistiller does, not in a stage of its own, through its connectors for maps of unequal sizes.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distill.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distill.methods.feature_maps import Connector, pair_maps
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
    hint_layer: int = Field(2, ge=0, le=16, description="Number of the stage that is the hint, from 0.")

    def make(self, pair: Pair) -> "FitNet":
        """FitNet for a pair of networks."""
        pairs = pair_maps(pair.student.feature_maps, pair.teacher.feature_maps, pooled=False)
        if self.hint_layer >= len(pairs):
            raise UsageError(
                f"There is no stage {self.hint_layer}: the networks share {len(pairs)}.",
                f"Use --set method.hint_layer={len(pairs) - 1} or less.",
            )
        hint = pairs[self.hint_layer]
        return FitNet(self.hint_layer, Connector(hint, relu=True))


class FitNet(Method):
    """The hint loss with its regressor.

    Args:
        hint_layer: Number of the stage.
        connector: From the student's map to the teacher's shape.
    """

    couples_samples = False

    def __init__(self, hint_layer: int, connector: Connector) -> None:
        super().__init__()
        self.hint_layer = hint_layer
        self.connector = connector

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """At the hint's stage."""
        hint = pair_maps(student.feature_maps, teacher.feature_maps, pooled=False)[self.hint_layer]
        return F.mse_loss(self.connector(hint.student), hint.teacher)
