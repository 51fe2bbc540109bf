"""Random images of any size and number, for tests and benchmarks."""

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F

from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape
from tekapctl.randomness import generator

MAX_BYTES = 4 * 2**30
CPU = torch.device("cpu")


@DATASETS.register("synthetic")
class Synthetic(DataSpec):
    """Each class is a smooth random picture; its images are that picture with noise."""

    name: Literal["synthetic"] = "synthetic"
    is_included: ClassVar[bool] = True
    padding: int = 4
    flip: bool = True
    samples: int = Field(50_000, ge=1, le=10_000_000, description="Training images.")
    test_samples: int = Field(10_000, ge=1, le=10_000_000, description="Test images.")
    classes: int = Field(100, ge=2, le=1_000_000)
    size: int = Field(32, ge=8, le=4096, description="Height and width in pixels.")
    channels: int = Field(3, ge=1, le=64)
    noise: float = Field(
        0.5, ge=0, le=100, description="Standard deviation of the noise, relative to that of the pictures."
    )

    @model_validator(mode="after")
    def _check_size(self) -> "Synthetic":
        if (self.samples + self.test_samples) * self.channels * self.size**2 > MAX_BYTES:
            raise ValueError("synthetic images are kept in memory; use less than 4 GiB of pixels")
        if self.classes * self.channels * self.size**2 * 4 > MAX_BYTES:
            raise ValueError("class pictures are kept in memory; use less than 4 GiB of them")
        return self

    def shape(self, downloads: Path) -> Shape:
        return Shape(self.samples, self.test_samples, self.classes, self.channels, self.size, self.size)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Generate both sets; equal settings give equal images."""
        coarse = torch.randn(self.classes, self.channels, 4, 4, generator=generator(CPU, 0, "pictures"))
        pictures = F.interpolate(coarse, size=(self.size, self.size), mode="bilinear", align_corners=False)
        # Symmetric pictures keep their class when flipped.
        pictures = (pictures + pictures.flip(3)) / 2**0.5
        return Splits(self._part("train", self.samples, pictures), self._part("test", self.test_samples, pictures))

    def _part(self, name: str, count: int, pictures: torch.Tensor) -> ImageSet:
        source = generator(CPU, 0, name)
        labels = torch.arange(count) % self.classes
        images = torch.empty(count, *pictures.shape[1:], dtype=torch.uint8)
        for part in torch.arange(count).split(1000):
            noisy = pictures[labels[part]]
            noisy = noisy + self.noise * torch.randn(noisy.shape, generator=source)
            images[part] = noisy.mul_(50).add_(128).clamp_(0, 255).to(torch.uint8)
        names = tuple(f"class {number}" for number in range(self.classes))
        return ImageSet(images, labels, names, (0.5,) * self.channels, (0.2,) * self.channels)
