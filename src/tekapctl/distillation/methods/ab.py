"""AB: match the activation boundaries of the student's neurons to the teacher's.

Heo et al., AAAI 2019, equation 7. As published, the student's features are first trained with this loss alone, and then
with the labels.
"""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tekapctl.distillation.methods import METHODS, About, Batch, MethodSpec, Pair, Requires
from tekapctl.distillation.methods.feature_maps import InitFeatureMapMethod, Map, Pairing, connector_or_identity
from tekapctl.distillation.methods.method import InitEpochs
from tekapctl.settings import Weight

_SCALE = 3 / 1000


@METHODS.register("ab")
class ABSpec(MethodSpec):
    """AB's settings."""

    requires = Requires(preactivations=True)
    about = About(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        2019,
        "init stage: sum over stages of 2^-(stages after it) * sum (c(student) +- margin)^2 where the signs differ",
        "in the init stage only",
    )
    name: Literal["ab"] = "ab"
    init_epochs: InitEpochs = 30
    margin: Weight = Field(1.0, description="Distance to keep from the activation boundary, on the teacher's side.")

    def make(self, pair: Pair) -> "AB":
        return AB(self, pair)


class AB(InitFeatureMapMethod):
    """The init stage's loss, with a connector for each stage but the first; 0 after it."""

    pairing = Pairing(preactivations=True, first=1, pooled=False)

    def __init__(self, spec: ABSpec, pair: Pair) -> None:
        super().__init__(spec, pair)
        self.connectors = nn.ModuleList(map(connector_or_identity, self.pairs(pair.student, pair.teacher)))

    def connect(self, number: int, student: Map) -> Map:
        found: Tensor = self.connectors[number](student)
        return found

    def pair_loss(self, number: int, ours: Map, teacher: Map, batch: Batch) -> Float[Tensor, ""]:
        """The loss of a stage, with half the weight of the next."""
        weight = 2.0 ** (number + 1 - len(self.connectors)) * _SCALE / len(ours)
        return weight * boundary_loss(ours, teacher, self.spec.margin)


def boundary_loss(student: Map, teacher: Map, margin: float) -> Float[Tensor, ""]:
    """Squared distances to the teacher's side of the boundary, summed."""
    should_be_off = (student + margin).square() * ((student > -margin) & (teacher <= 0))
    should_be_on = (student - margin).square() * ((student <= margin) & (teacher > 0))
    return (should_be_off + should_be_on).sum()
