"""SRRL: match the projected embedding to the teacher's, and its logits under the teacher's classifier.

Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge Distillation via Softmax Regression Representation Learning", ICLR
2021, equations 3 and 7, of pooled features as in SimKD's code.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
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
        """SRRL for a pair of networks."""
        assert pair.classifier is not None, "SRRL reads the teacher's classifier"
        return SRRL(pair.student.embedding.shape[1], pair.teacher.embedding.shape[1], pair.classifier)


class SRRL(Method):
    """Both distances and the projection.

    Args:
        student_width: Width of the student's embedding.
        teacher_width: Width of the teacher's.
        classifier: The teacher's classifier; a frozen copy is kept.
    """

    couples_samples = False

    def __init__(self, student_width: int, teacher_width: int, classifier: nn.Module) -> None:
        super().__init__()
        # 1x1 convolutions of 1x1 maps, since BatchNorm2d is the kind that is synchronized over processes.
        self.project = nn.Sequential(
            nn.Conv2d(student_width, teacher_width, 1, bias=False), nn.BatchNorm2d(teacher_width), nn.ReLU()
        )
        self.classifier = linear_of(classifier)

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The distance of the embeddings plus that of the logits."""
        projected = self.project(student.embedding[:, :, None, None]).flatten(1)
        logits = self.classifier(projected)
        return F.mse_loss(projected, teacher.embedding) + F.mse_loss(logits, teacher.logits)
