"""What a network computes for a batch, and what losses read of it."""

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tekapctl.data.batch import Batch
from tekapctl.distributed.shard import BatchShard

Level = Literal["logit", "feature"]
"""What TeKAP augments: the teacher's logits, or its embedding and feature maps."""

_DESCRIPTIONS = {
    "logits": "logits",
    "embedding": "embedding",
    "feature_maps": "feature maps",
    "preactivations": "feature maps before ReLU",
    "strong_view": "strongly augmented images",
    "classifier": "the teacher's classifier",
    "class_features": "the teacher's embeddings of some training images",
}


@dataclass(frozen=True)
class Requires:
    """What a loss reads of student and teacher. Networks return logits and embeddings in any case."""

    logits: bool = False
    embedding: bool = False
    feature_maps: bool = False
    preactivations: bool = False
    strong_view: bool = False
    classifier: bool = False
    class_features: bool = False

    def __or__(self, other: "Requires") -> "Requires":
        return Requires(*(one or two for one, two in zip(astuple(self), astuple(other), strict=True)))

    @property
    def level(self) -> Level:
        """Where TeKAP augments the teacher: at its logits if the loss reads nothing else of a batch."""
        return "feature" if self.embedding or self.feature_maps or self.preactivations else "logit"

    @property
    def classes(self) -> bool:
        """Whether it reads the teacher's classes, so that these must be the dataset's."""
        return self.logits or self.classifier

    @property
    def uncached(self) -> str | None:
        """What it reads that the cache of teacher outputs does not hold; None if the cache holds all of it."""
        if self.strong_view:
            return "strongly augmented images, of which no two are alike"
        return "feature maps" if self.feature_maps or self.preactivations else None

    @property
    def described(self) -> list[str]:
        """What it reads, in words."""
        return [words for name, words in _DESCRIPTIONS.items() if getattr(self, name)]


@dataclass(frozen=True)
class Knowledge:
    """The outputs of a student or teacher for a batch.

    Attributes:
        logits: The classifier's output before softmax.
        embedding: The input of the classifier, flattened after pooling.
        feature_maps: Feature maps, first to last, as in the published code; empty if not requested.
        preactivations: The same maps before their ReLU; empty if not requested.
        strong: Knowledge of the strongly augmented images; None if not requested.
    """

    logits: Float[Tensor, "batch classes"]
    embedding: Float[Tensor, "batch width"]
    feature_maps: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()
    preactivations: tuple[Float[Tensor, "batch _c _h _w"], ...] = ()
    strong: "Knowledge | None" = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Knowledge":
        """Change every tensor."""
        return Knowledge(
            change(self.logits),
            change(self.embedding),
            tuple(map(change, self.feature_maps)),
            tuple(map(change, self.preactivations)),
            None if self.strong is None else self.strong.map(change),
        )

    def gather(self, shard: BatchShard) -> "Knowledge":
        """The knowledge of the full batch, gathered from all processes."""
        return self if shard.is_full_batch else self.map(shard.gather)

    def first(self, count: int) -> "Knowledge":
        """The knowledge of the first samples."""
        return self if count == len(self.logits) else self.map(lambda rows: rows[:count])

    def float(self) -> "Knowledge":
        """Convert to float32, in which losses are computed."""
        return self.map(Tensor.float)


def of_batch(
    forward: Callable[..., Knowledge], normalize: Callable[[Tensor], Tensor], batch: Batch, requires: Requires
) -> Knowledge:
    """Compute a network's knowledge of a batch, with a second forward pass for strongly augmented images.

    `forward` is the network's `knowledge`, compiled or not, and `normalize` its method of that name.
    """
    wanted = {"feature_maps": requires.feature_maps, "preactivations": requires.preactivations}
    found = forward(normalize(batch.images), **wanted)
    if not requires.strong_view:
        return found
    assert batch.strong is not None
    return replace(found, strong=forward(normalize(batch.strong), **wanted))
