"""CutMix: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers", ICCV 2019."""

import math
from typing import Literal

from jaxtyping import Shaped
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, Draws, MixSpec


@AUGMENTATIONS.register("cutmix")
class CutMix(MixSpec):
    """A rectangle of each image comes from the other one; all images of a batch have the same rectangle."""

    name: Literal["cutmix"] = "cutmix"

    def mix(
        self, images: Shaped[Tensor, "batch c h w"], others: Shaped[Tensor, "batch c h w"], draws: Draws
    ) -> tuple[Shaped[Tensor, "batch c h w"], float]:
        """The share is that of the pixels left, as the rectangle may lie partly outside the image."""
        height, width = images.shape[2:]
        side = math.sqrt(1 - draws.larger_share(self.alpha))
        rows, columns = (_span(draws.once(), side, size) for size in (height, width))
        mixed = images.clone()
        mixed[:, :, rows, columns] = others[:, :, rows, columns].to(images.dtype)
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        return mixed, 1 - cut / (height * width)


def _span(centre: float, side: float, size: int) -> slice:
    """The pixels of an interval with a relative side length around a random pixel."""
    middle, length = int(centre * size), int(side * size)
    return slice(max(middle - length // 2, 0), min(middle + length // 2, size))
