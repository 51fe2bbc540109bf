"""What is done to test images before a network sees them."""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tekapctl.models import Network
from tekapctl.randomness import by_rows

Pixels = Float[Tensor, "batch c h w"]
"""Images whose values are between 0 (black) and 1."""


@dataclass(frozen=True)
class Seen:
    """The network that shifted images are for, as an attack may know it.

    Attributes:
        network: The network, in evaluation mode.
    """

    network: Network

    def logits(self, pixels: Pixels) -> Float[Tensor, "batch classes"]:
        """What it says of pixels; gradients reach them."""
        return self.network(self.network.normalize(255 * pixels)).float()


class Shift(ABC):
    """A change of test images; what it draws depends on a seed and an image's place in the set alone."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called in results."""

    @abstractmethod
    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, seen: Seen) -> Pixels:
        """The changed images.

        Args:
            pixels: The images.
            labels: Their classes.
            first: The first one's place in the set.
            seen: The network that is to see them.
        """


SEVERITIES = (1, 2, 3, 4, 5)
Draw = Callable[[str], Tensor]
"""Draws uniform (`uniform`) or Gaussian (`normal`) numbers of the images' shape."""
Change = Callable[[Pixels, float, Draw], Pixels]


def _blurred(pixels: Pixels, kernel: Tensor) -> Pixels:
    """Convolved with a row kernel and its transpose; edges are repeated."""
    return _along(_along(pixels, kernel, 3), kernel, 2)


def _along(pixels: Pixels, kernel: Tensor, dim: int) -> Pixels:
    channels, half = pixels.shape[1], len(kernel) // 2
    padding = [half, half, 0, 0] if dim == 3 else [0, 0, half, half]
    weight = kernel.view(1, 1, 1, -1) if dim == 3 else kernel.view(1, 1, -1, 1)
    return F.conv2d(F.pad(pixels, padding, "replicate"), weight.expand(channels, 1, -1, -1), groups=channels)


def _gaussian_noise(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    return pixels + amount * draw("normal")


def _shot_noise(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    # A Poisson number of many photons is nearly a Gaussian one, of which a place's can be drawn by itself.
    return pixels + (pixels / amount).sqrt() * draw("normal")


def _impulse_noise(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    chance = draw("uniform")
    return torch.where(chance < amount / 2, 0.0, torch.where(chance > 1 - amount / 2, 1.0, pixels))


def _gaussian_blur(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    deviation = amount * pixels.shape[2]
    half = max(1, round(3 * deviation))
    places = torch.arange(-half, half + 1, device=pixels.device)
    kernel = (-0.5 * (places / deviation).square()).exp()
    return _blurred(pixels, kernel / kernel.sum())


def _motion_blur(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    length = 2 * max(1, round(amount * pixels.shape[3] / 2)) + 1
    return _along(pixels, torch.full((length,), 1 / length, device=pixels.device), 3)


def _brightness(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    return pixels + amount


def _contrast(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return mean + amount * (pixels - mean)


def _fog(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    coarse = F.adaptive_avg_pool2d(draw("uniform").mean(1, keepdim=True), 4)
    field = F.interpolate(coarse, size=pixels.shape[2:], mode="bilinear", align_corners=False)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    thickness = amount * (0.5 + 0.5 * (field - low) / (high - low).clamp(min=1e-6))
    return pixels * (1 - thickness) + thickness


def _pixelate(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    height, width = (max(1, round(amount * side)) for side in pixels.shape[2:])
    return F.interpolate(F.adaptive_avg_pool2d(pixels, (height, width)), size=pixels.shape[2:], mode="nearest-exact")


def _jpeg(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    stored = (pixels * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    found = []
    for picture in stored:
        buffer = io.BytesIO()
        image = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
        image.save(buffer, "JPEG", quality=int(amount))
        found.append(torch.from_numpy(np.array(Image.open(buffer))).view(picture.shape))
    return torch.stack(found).permute(0, 3, 1, 2).to(pixels.device).float() / 255


CORRUPTIONS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "gaussian-noise": (_gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot-noise": (_shot_noise, (100.0, 40.0, 20.0, 10.0, 5.0)),
    "impulse-noise": (_impulse_noise, (0.02, 0.05, 0.10, 0.17, 0.27)),
    "gaussian-blur": (_gaussian_blur, (0.015, 0.025, 0.035, 0.05, 0.07)),
    "motion-blur": (_motion_blur, (0.10, 0.17, 0.24, 0.31, 0.40)),
    "brightness": (_brightness, (0.10, 0.20, 0.30, 0.40, 0.50)),
    "contrast": (_contrast, (0.75, 0.55, 0.40, 0.25, 0.15)),
    "fog": (_fog, (0.25, 0.40, 0.55, 0.70, 0.85)),
    "pixelate": (_pixelate, (0.80, 0.65, 0.50, 0.40, 0.30)),
    "jpeg": (_jpeg, (50.0, 30.0, 18.0, 12.0, 7.0)),
}
"""What is done, and how much of it in each severity.

Deviation of the noise; photons at white; share of pixels; deviation or length in sides of the image; what is added;
what is left of the contrast; thickness of the fog; share of the resolution; quality.
"""


@dataclass(frozen=True)
class Corruption(Shift):
    """One of `CORRUPTIONS`; noise is drawn per image.

    Attributes:
        kind: Its name.
        severity: 1 to 5.
    """

    kind: str
    severity: int

    @property
    def name(self) -> str:
        """With its severity."""
        return f"{self.kind} {self.severity}"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, seen: Seen) -> Pixels:
        """The corrupted images."""
        change, amounts = CORRUPTIONS[self.kind]

        def draw(distribution: str) -> Tensor:
            def some(rows: int, source: torch.Generator) -> Tensor:
                make = torch.randn if distribution == "normal" else torch.rand
                return make(rows, *pixels.shape[1:], generator=source, device=pixels.device)

            return by_rows(some, pixels.device, first, len(pixels), 0, "corruption", self.kind)

        return change(pixels, amounts[self.severity - 1], draw).clamp(0, 1)
