"""SRRL: match the projected embedding to the teacher's, and its logits under the teacher's classifier.

Yang, Martinez, Bulat and Tzimiropoulos, ICLR 2021, equations 3 and 7, of pooled features as in SimKD's code.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.method import TwoSidedMethod
from tekapctl.models.reused import linear_of


@METHODS.register("srrl")
class SRRLSpec(MethodSpec):
    """SRRL's settings."""

    weights = Weights(alpha=1.0)
    requires = Requires(embedding=True, logits=True, classifier=True)
    about = About(
        "Knowledge Distillation via Softmax Regression Representation Learning",
        2021,
        "mean (p(student) - teacher)^2 + mean (c(p(student)) - c(teacher))^2, p = a linear layer with batch norm and "
        "ReLU, c = the teacher's classifier, of embeddings",
    )
    name: Literal["srrl"] = "srrl"

    def make(self, pair: Pair) -> "SRRL":
        return SRRL(self, pair)


class SRRL(TwoSidedMethod):
    """Both distances, with the projection and a frozen copy of the teacher's classifier."""

    couples_samples = False

    def __init__(self, spec: SRRLSpec, pair: Pair) -> None:
        super().__init__(spec)
        assert pair.classifier is not None, "SRRL reads the teacher's classifier"
        ours, theirs = pair.student.embedding.shape[1], pair.teacher.embedding.shape[1]
        # 1x1 convolutions of 1x1 maps, since BatchNorm2d is the kind that is synchronized over processes.
        self.project = nn.Sequential(nn.Conv2d(ours, theirs, 1, bias=False), nn.BatchNorm2d(theirs), nn.ReLU())
        self.classifier = linear_of(pair.classifier)

    def student_side(self, student: Knowledge, teacher: Knowledge) -> Knowledge:
        """The projected embedding, and its logits under the teacher's classifier."""
        projected = self.project(student.embedding[:, :, None, None]).flatten(1)
        return Knowledge(self.classifier(projected), projected)

    def compare(self, ours: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        return F.mse_loss(ours.embedding, teacher.embedding) + F.mse_loss(ours.logits, teacher.logits)
