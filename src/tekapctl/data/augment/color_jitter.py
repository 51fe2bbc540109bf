"""Random brightness, contrast, saturation and hue."""

from typing import Literal

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in brightness, as torchvision has them."""


@AUGMENTATIONS.register("color-jitter")
class ColorJitter(AugmentSpec):
    """torchvision's ColorJitter, in the order of its settings; factors are drawn for each image."""

    name: Literal["color-jitter"] = "color-jitter"
    brightness: float = Field(0.4, ge=0, le=1, description="Largest relative change of brightness.")
    contrast: float = Field(0.4, ge=0, le=1, description="Largest relative change of contrast.")
    saturation: float = Field(0.4, ge=0, le=1, description="Largest relative change of saturation.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Largest shift of the hue, as a fraction of the colour circle.")

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        """Change the colours of each image; one without colours keeps its saturation and hue."""
        widest = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue])
        changes = ((2 * draws.uniform(4) - 1) * widest).to(images.device, non_blocking=True)
        brightness, contrast, saturation = (1 + changes[:, :3]).view(len(images), 3, 1, 1, 1).unbind(1)
        pixels = (images.float() * brightness).clamp(0, 255)
        mean = _grey(pixels).floor().mean((1, 2, 3), keepdim=True)
        pixels = mean.lerp(pixels, contrast).clamp(0, 255)
        pixels = _grey(pixels).lerp(pixels, saturation).clamp(0, 255)
        if self.hue and pixels.shape[1] == len(_GREY):
            pixels = _shift_hue(pixels, changes[:, 3])
        return pixels.to(images.dtype)


def _shift_hue(pixels: Float[Tensor, "batch 3 h w"], shift: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 h w"]:
    """Turn the hue of each image by a fraction of the colour circle, with its value and chroma unchanged (HSV)."""
    red, green, blue = pixels.unbind(1)
    value = pixels.amax(1)
    chroma = value - pixels.amin(1)
    scale = chroma.clamp(min=1e-6)
    sixth = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, (blue - red) / scale + 2, (red - green) / scale + 4),
    )
    sixth = sixth + 6 * shift.view(-1, 1, 1)
    distances = [(start + sixth).remainder(6) for start in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in distances], dim=1)


def _grey(pixels: Tensor) -> Tensor:
    if pixels.shape[1] != len(_GREY):
        return pixels
    weights = torch.tensor(_GREY).view(1, -1, 1, 1).to(pixels.device, non_blocking=True)
    return (pixels * weights).sum(1, keepdim=True)
