"""RandAugment: Cubuk et al., NeurIPS 2020."""

from typing import Literal

from jaxtyping import Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_BINS = 31


@AUGMENTATIONS.register("randaugment")
class RandAugment(AugmentSpec):
    """Random operations of one magnitude, with torchvision's operations and ranges."""

    name: Literal["randaugment"] = "randaugment"
    operations: int = Field(2, ge=1, le=16, description="Operations on each image.")
    magnitude: int = Field(9, ge=0, lt=_BINS, description="Magnitude of the operations, from 0 to 30.")

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        from tekapctl.data.augment.operations import random_operations, ranges  # torchvision is slow to import

        height, width = images.shape[2:]
        available = ranges(
            shear=0.3, translate=(150 / 331 * width, 150 / 331 * height), rotate=30.0, enhance=0.9, bits=(8.0, 4.0)
        )
        for _ in range(self.operations):
            images = random_operations(images, available, draws, lambda: self.magnitude / (_BINS - 1))
        return images
