"""SimKD: project the student's last map onto the teacher's, and reuse the teacher's classifier.

Chen et al., CVPR 2022, equation 2. The trained student is the student's network without its classifier, the projector
and the teacher's classifier.
"""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from tekapctl.distillation.methods import METHODS, About, Batch, Knowledge, Method, MethodSpec, Pair, Requires, Weights
from tekapctl.distillation.methods.feature_maps import of_one_size
from tekapctl.distillation.methods.method import no_maps
from tekapctl.models.network import Network, pool
from tekapctl.models.reused import Projection, ReusedClassifier, linear_of


@METHODS.register("simkd")
class SimKDSpec(MethodSpec):
    """SimKD's settings."""

    weights = Weights(gamma=0.0)
    requires = Requires(feature_maps=True, classifier=True)
    about = About(
        "Knowledge Distillation with the Reused Teacher Classifier",
        2022,
        "mean (p(student map) - teacher map)^2, p = the projector, of the last map",
        "the student that is trained, tested and stored has the projector and the teacher's classifier",
    )
    name: Literal["simkd"] = "simkd"
    factor: int = Field(2, ge=1, le=1024, description="Reduction factor of the projector's hidden channels.")

    def learner(self, student: Network, pair: Pair) -> Network:
        """The student with a projector and the teacher's classifier."""
        if not pair.student.feature_maps:
            raise no_maps("the student")
        assert pair.classifier is not None, "SimKD reuses the teacher's classifier"
        classifier, last = linear_of(pair.classifier), pair.student.feature_maps[-1]
        most = pair.teacher.feature_maps[-1].shape[2:] if classifies_last_map(pair.teacher) else None
        projection = Projection(
            inputs=last.shape[1],
            outputs=classifier.in_features,
            factor=self.factor,
            most=None if most is None else (most[0], most[1]),
            bias=classifier.bias is not None,
        )
        network = ReusedClassifier(student, projection)
        network.take(classifier)
        return network

    def make(self, pair: Pair) -> "SimKD":
        return SimKD(of_maps=classifies_last_map(pair.teacher))


class SimKD(Method):
    """The squared distance of the projected map and the teacher's.

    Args:
        of_maps: Whether to compare maps; otherwise the embeddings, which both classifiers read.
    """

    couples_samples = False

    def __init__(self, *, of_maps: bool) -> None:
        super().__init__()
        self.of_maps = of_maps

    def loss(self, student: Knowledge, teacher: Knowledge, batch: Batch) -> Float[Tensor, ""]:
        """The mean squared error at the last stage; the larger map is pooled to the smaller one's size."""
        if self.of_maps:
            return F.mse_loss(*of_one_size(student.feature_maps[-1], teacher.feature_maps[-1]))
        return F.mse_loss(student.embedding, teacher.embedding)


def classifies_last_map(teacher: Knowledge) -> bool:
    """Whether a network's classifier reads its pooled last map, with nothing in between."""
    if not teacher.feature_maps or teacher.feature_maps[-1].shape[1] != teacher.embedding.shape[1]:
        return False
    return torch.allclose(pool(teacher.feature_maps[-1]), teacher.embedding, rtol=1e-3, atol=1e-4)
