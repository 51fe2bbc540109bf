"""Random erasing: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020."""

import math
from typing import Literal

import torch
from jaxtyping import Shaped
from pydantic import Field, model_validator
from torch import Tensor

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec, Draws

_RATIO = 3.3
"""Largest ratio of the rectangle's sides."""


@AUGMENTATIONS.register("random-erasing")
class RandomErasing(AugmentSpec):
    """A rectangle of the image gets a random colour."""

    name: Literal["random-erasing"] = "random-erasing"
    probability: float = Field(0.25, ge=0, le=1, description="Probability that an image is changed.")
    min_area: float = Field(0.02, gt=0, le=1, description="Smallest area, as a fraction of the image.")
    max_area: float = Field(0.33, gt=0, le=1, description="Largest area, as a fraction of the image.")

    @model_validator(mode="after")
    def _check_areas(self) -> "RandomErasing":
        if self.min_area > self.max_area:
            raise ValueError("min_area must not exceed max_area")
        return self

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        _, channels, height, width = images.shape
        colour = draws.integers(256, channels, 1, 1).to(images.dtype)
        chance, area, ratio, top, left = draws.uniform(5).unbind(1)
        area = self.min_area + (self.max_area - self.min_area) * area
        ratio = ((2 * ratio - 1) * math.log(_RATIO)).exp()
        spans = []
        for share, start, size in ((area * ratio, top, height), (area / ratio, left, width)):
            length = (share.sqrt() * size).round().clamp(1, size)
            first = (start * (size - length + 1)).floor()
            pixels = torch.arange(size)
            spans.append((pixels >= first.unsqueeze(1)) & (pixels < (first + length).unsqueeze(1)))
        is_erased = (chance < self.probability).view(-1, 1, 1) & spans[0].unsqueeze(2) & spans[1].unsqueeze(1)
        is_erased = is_erased.unsqueeze(1).to(images.device, non_blocking=True)
        return torch.where(is_erased, colour.to(images.device, non_blocking=True), images)
