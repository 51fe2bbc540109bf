"""Mixup: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018."""

from typing import Literal

from jaxtyping import Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, Draws, MixSpec


@AUGMENTATIONS.register("mixup")
class Mixup(MixSpec):
    """`share * image + (1 - share) * other`, with one share for the batch."""

    name: Literal["mixup"] = "mixup"
    alpha: float = Field(0.2, ge=0.01, le=1e3, description="The images' shares are drawn from Beta(alpha, alpha).")

    def mix(
        self, images: Shaped[Tensor, "batch c h w"], others: Shaped[Tensor, "batch c h w"], draws: Draws
    ) -> tuple[Shaped[Tensor, "batch c h w"], float]:
        """Images of floating-point pixels from 0 to 255."""
        share = draws.larger_share(self.alpha)
        return images.float().lerp(others.float(), 1 - share), share
