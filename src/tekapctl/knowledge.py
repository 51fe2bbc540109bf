"""What a network says of a batch of images."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Knowledge:
    """A network's knowledge of a batch; student and teacher both give it.

    Attributes:
        logits: The classifier's output before softmax.
        embedding: The classifier's input, flattened after pooling.
        stages: Feature maps, first to last, as the published codes expose them; empty where none were asked for.
        preactivations: The same maps before their ReLU; empty where none were asked for.
    """

    logits: Float[Tensor, "batch classes"]
    embedding: Float[Tensor, "batch width"]
    stages: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()
    preactivations: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()

    def float(self) -> "Knowledge":
        """The same in float32, in which losses are computed."""
        return Knowledge(
            logits=self.logits.float(),
            embedding=self.embedding.float(),
            stages=tuple(stage.float() for stage in self.stages),
            preactivations=tuple(stage.float() for stage in self.preactivations),
        )
