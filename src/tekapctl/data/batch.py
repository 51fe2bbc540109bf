"""A batch of images, as every loss and network gets it."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from tekapctl.data.augment.augmentation import MixSpec
from tekapctl.distributed.shard import FULL_BATCH, BatchShard


@dataclass(frozen=True)
class Batch:
    """Some samples of an image set.

    Attributes:
        images: Augmented pixels, from 0 to 255; each network normalises them itself.
        labels: Class numbers; of a mixed image, that of the larger part.
        index: The samples' indices in the image set.
        source_index: The samples' indices in the full set, of which the image set may be a subset; on the CPU.
        view: The crop and flip of each sample, `(row * (2 * padding + 1) + column) * 2 + flipped`; on the CPU.
        step: The optimizer step in the run, starting at 0.
        strong: The same samples in another crop and flip, strongly augmented; None if they were not requested.
        targets: Probabilities of the classes, where images are mixed; None where the labels say all. Those of images
            without a label count 0.
        label_weights: Weight of each label in the cross-entropy, as in `ImageSet`.
        share: The batch's share of the samples of its step; below 1 where gradients are accumulated.
        ends_step: Whether it is the last one of its step.
        shard: This process's part of the batch of all processes.
    """

    images: Shaped[Tensor, "batch c h w"]
    labels: Int64[Tensor, " batch"]
    index: Int64[Tensor, " batch"]
    source_index: Int64[Tensor, " batch"]
    view: Int64[Tensor, " batch"]
    step: int
    strong: Shaped[Tensor, "batch c h w"] | None = None
    targets: Float[Tensor, "batch classes"] | None = None
    label_weights: Float[Tensor, " batch"] | None = None
    share: float = 1.0
    ends_step: bool = True
    shard: BatchShard = FULL_BATCH

    @property
    def starts_step(self) -> bool:
        """Whether it is the first one of its step."""
        return self.shard.offset == 0

    def accuracy(self, logits: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
        """The share of images with a label that are classified correctly; over an epoch, its mean is their accuracy."""
        is_correct = (logits.argmax(1) == self.labels).float()
        return (is_correct if self.label_weights is None else is_correct * self.label_weights).mean()

    def gather(self) -> "Batch":
        """The batch of all processes, for losses that compare its samples; its images are empty meta tensors."""
        shard = self.shard
        if shard.is_full_batch or shard.of is None:
            return self
        shape = self.images.shape[1:]
        return replace(
            self,
            images=torch.empty(shard.of, *shape, device="meta"),
            labels=shard.gather(self.labels),
            index=shard.gather(self.index),
            source_index=shard.gather(self.source_index),
            view=shard.gather(self.view),
            strong=None if self.strong is None else torch.empty(shard.of, *shape, device="meta"),
            targets=None if self.targets is None else shard.gather(self.targets),
            label_weights=None if self.label_weights is None else shard.gather(self.label_weights),
            shard=BatchShard(offset=shard.offset),
        )


@dataclass(frozen=True)
class Part:
    """The samples of a step that are in one batch of this process.

    `rows` are their positions in the step, and `wanted` those of the images to read: the samples, and those that they
    are mixed with if these are others. `partners` has the position of the image that each of the step's is mixed with.
    """

    epoch: int
    step: int
    index: Int64[Tensor, " count"]
    shard: BatchShard
    rows: Int64[Tensor, " own"]
    wanted: Int64[Tensor, " wanted"]
    share: float
    ends_step: bool
    mix: MixSpec | None
    partners: Int64[Tensor, " count"] | None
