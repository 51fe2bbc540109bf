"""AugMix: Hendrycks et al., ICLR 2020, without its consistency loss."""

from typing import Literal

import torch
from jaxtyping import Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_DEPTH = 3
"""Operations in a chain, at most."""
_BINS = 10


@AUGMENTATIONS.register("augmix")
class AugMix(AugmentSpec):
    """The image mixed with several chains of random operations; weights are drawn from Dirichlet(1) and Beta(1, 1)."""

    name: Literal["augmix"] = "augmix"
    severity: int = Field(3, ge=1, le=_BINS, description="Number of magnitudes to draw from, of 10.")
    chains: int = Field(3, ge=1, le=16, description="Chains of operations.")

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        """Mix each image with its chains of one to three operations."""
        from tekapctl.data.augment.operations import random_operations, ranges  # torchvision is slow to import

        height, width = images.shape[2:]
        available = ranges(shear=0.3, translate=(width / 3, height / 3), rotate=30.0, enhance=0.9, bits=(4.0, 0.0))
        del available["Identity"]
        exponential = -torch.log1p(-draws.uniform(self.chains))
        share = draws.uniform(1)  # of the original image
        weights = torch.cat([share, (1 - share) * exponential / exponential.sum(1, keepdim=True)], 1)
        weights = weights.to(images.device, non_blocking=True).view(*weights.shape, 1, 1, 1)
        mixed = weights[:, 0] * images
        for chain in range(self.chains):
            changed, depth = images, draws.integers(_DEPTH)
            for number in range(_DEPTH):
                changed = random_operations(
                    changed, available, draws, lambda: int(draws.once() * self.severity) / (_BINS - 1), depth >= number
                )
            mixed = mixed + weights[:, chain + 1] * changed
        return mixed.to(images.dtype)
