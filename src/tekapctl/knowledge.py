"""What a network says of a batch of images."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from tekapctl.data.batches import Batch
from tekapctl.parallel.share import Share


@dataclass(frozen=True)
class Needs:
    """What is wanted of networks beside logits and embeddings of the batch.

    Attributes:
        stages: Feature maps.
        preactivations: Feature maps before their ReLU.
        strong_view: Knowledge of the batch's strongly augmented images as well.
    """

    stages: bool = False
    preactivations: bool = False
    strong_view: bool = False

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.stages or other.stages,
            self.preactivations or other.preactivations,
            self.strong_view or other.strong_view,
        )


@dataclass(frozen=True)
class Knowledge:
    """A network's knowledge of a batch; student and teacher both give it.

    Attributes:
        logits: The classifier's output before softmax.
        embedding: The classifier's input, flattened after pooling.
        stages: Feature maps, first to last, as the published codes expose them; empty where none were asked for.
        preactivations: The same maps before their ReLU; empty where none were asked for.
        strong: Knowledge of the same samples' strongly augmented images; None where it was not asked for.
    """

    logits: Float[Tensor, "batch classes"]
    embedding: Float[Tensor, "batch width"]
    stages: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()
    preactivations: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()
    strong: "Knowledge | None" = None

    def whole(self, share: Share) -> "Knowledge":
        """That of all samples of a batch, from all processes' shares of it."""
        if share.is_whole:
            return self
        return Knowledge(
            logits=share.whole(self.logits),
            embedding=share.whole(self.embedding),
            stages=tuple(share.whole(stage) for stage in self.stages),
            preactivations=tuple(share.whole(stage) for stage in self.preactivations),
            strong=None if self.strong is None else self.strong.whole(share),
        )

    def first(self, count: int) -> "Knowledge":
        """That of the first samples of a batch."""
        if count == len(self.logits):
            return self
        return Knowledge(
            logits=self.logits[:count],
            embedding=self.embedding[:count],
            stages=tuple(stage[:count] for stage in self.stages),
            preactivations=tuple(stage[:count] for stage in self.preactivations),
            strong=None if self.strong is None else self.strong.first(count),
        )

    def float(self) -> "Knowledge":
        """The same in float32, in which losses are computed."""
        return Knowledge(
            logits=self.logits.float(),
            embedding=self.embedding.float(),
            stages=tuple(stage.float() for stage in self.stages),
            preactivations=tuple(stage.float() for stage in self.preactivations),
            strong=None if self.strong is None else self.strong.float(),
        )


def of_batch(
    forward: Callable[..., Knowledge], normalize: Callable[[Tensor], Tensor], batch: Batch, needs: Needs
) -> Knowledge:
    """A network's knowledge of a batch, with a second forward pass for the strongly augmented images.

    Args:
        forward: The network's `knowledge`, compiled or not.
        normalize: The network's `normalize`.
        batch: The images.
        needs: What is wanted.
    """
    found = forward(normalize(batch.images), stages=needs.stages, preactivations=needs.preactivations)
    if not needs.strong_view:
        return found
    assert batch.strong is not None
    strong = forward(normalize(batch.strong), stages=needs.stages, preactivations=needs.preactivations)
    return replace(found, strong=strong)
