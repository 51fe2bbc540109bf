"""AB: the student's neurons switch on where the teacher's do.

Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons", AAAI 2019,
equation 7. As published the student's features are first trained by this loss alone, and then by the labels.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from tekapctl.distill.methods import METHODS, About, Batch, InitEpochs, Knowledge, Method, MethodSpec, Pair, Requires
from tekapctl.distill.methods.feature_maps import Map, connector_or_identity, pair_maps
from tekapctl.settings import Weight

_SCALE = 3 / 1000


@METHODS.register("ab")
class ABSpec(MethodSpec):
    """AB's settings."""

    requires = Requires(preactivations=True)
    about = About(
        "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
        2019,
        "first stage: sum over stages of 2^-(stages after it) * sum (c(student) +- margin)^2 where the signs differ",
        "in the first stage only",
    )
    name: Literal["ab"] = "ab"
    init_epochs: InitEpochs = 30
    margin: Weight = Field(1.0, description="How far on the right side a student's neuron is to be.")

    def make(self, pair: Pair) -> "AB":
        """AB for a pair of networks."""
        pairs = pair_maps(pair.student.preactivations, pair.teacher.preactivations, first=1, pooled=False)
        connectors = [connector_or_identity(each) for each in pairs]
        return AB(self.init_epochs, self.margin, connectors)


class AB(Method):
    """The first stage's loss, with a connector for each stage; nothing after it.

    Args:
        init_epochs: Epochs of the first stage.
        margin: How far on the right side a student's neuron is to be.
        connectors: One for each stage but the first; the identity where both maps have one shape.
    """

    couples_samples = False

    init_only = True

    def __init__(self, init_epochs: int, margin: float, connectors: list[nn.Module]) -> None:
        super().__init__()
        self.init_epochs = init_epochs
        self.margin = margin
        self.connectors = nn.ModuleList(connectors)

    def init_loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The sum over stages, each counting half of the next."""
        return torch.stack(self.losses(student, teacher)).sum()

    def losses(self, student: Knowledge, teacher: Knowledge) -> list[Float[Tensor, ""]]:
        """The stages' parts of it."""
        pairs = pair_maps(student.preactivations, teacher.preactivations, first=1, pooled=False)
        found = []
        for number, (connect, pair) in enumerate(zip(self.connectors, pairs, strict=True)):
            weight = 2.0 ** (number + 1 - len(pairs)) * _SCALE / len(student.logits)
            found.append(weight * boundary_loss(connect(pair.student), pair.teacher, self.margin))
        return found

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """Nothing: what it does is done in the first stage."""
        return student.logits.new_zeros(())


def boundary_loss(student: Map, teacher: Map, margin: float) -> Float[Tensor, ""]:
    """Squared distances to the right side of the boundary, summed."""
    should_be_off = (student + margin).square() * ((student > -margin) & (teacher <= 0))
    should_be_on = (student - margin).square() * ((student <= margin) & (teacher > 0))
    return (should_be_off + should_be_on).sum()
