"""Random brightness, contrast and saturation."""

from typing import Literal

import torch
from jaxtyping import Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in brightness, as torchvision has them."""


@AUGMENTATIONS.register("color-jitter")
class ColorJitter(AugmentSpec):
    """torchvision's ColorJitter without hue, in the order of its settings; factors are drawn for each image."""

    name: Literal["color-jitter"] = "color-jitter"
    brightness: float = Field(0.4, ge=0, le=1, description="Largest relative change of brightness.")
    contrast: float = Field(0.4, ge=0, le=1, description="Largest relative change of contrast.")
    saturation: float = Field(0.4, ge=0, le=1, description="Largest relative change of saturation.")

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        """Change the colours of each image; one without colours keeps its saturation."""
        factors = (2 * draws.uniform(3) - 1) * torch.tensor([self.brightness, self.contrast, self.saturation]) + 1
        factors = factors.to(images.device, non_blocking=True).view(len(images), 3, 1, 1, 1)
        brightness, contrast, saturation = factors.unbind(1)
        pixels = (images.float() * brightness).clamp(0, 255)
        mean = _grey(pixels).floor().mean((1, 2, 3), keepdim=True)
        pixels = mean.lerp(pixels, contrast).clamp(0, 255)
        pixels = _grey(pixels).lerp(pixels, saturation).clamp(0, 255)
        return pixels.to(images.dtype)


def _grey(pixels: Tensor) -> Tensor:
    if pixels.shape[1] != len(_GREY):
        return pixels
    weights = torch.tensor(_GREY).view(1, -1, 1, 1).to(pixels.device, non_blocking=True)
    return (pixels * weights).sum(1, keepdim=True)
