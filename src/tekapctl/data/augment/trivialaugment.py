"""TrivialAugment: Müller and Hutter, ICCV 2021, with the wide ranges."""

from typing import Literal

from jaxtyping import Shaped
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_BINS = 31


@AUGMENTATIONS.register("trivialaugment")
class TrivialAugment(AugmentSpec):
    """One random operation of a random magnitude, with torchvision's operations and ranges.

    Images of a batch that draw the same operation share its magnitude.
    """

    name: Literal["trivialaugment"] = "trivialaugment"

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        from tekapctl.data.augment.operations import random_operations, ranges  # torchvision is slow to import

        available = ranges(shear=0.99, translate=(32.0, 32.0), rotate=135.0, enhance=0.99, bits=(8.0, 2.0))
        return random_operations(images, available, draws, lambda: int(draws.once() * _BINS) / (_BINS - 1))
