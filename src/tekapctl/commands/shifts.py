"""Shifts of test images: adversarial attacks, common corruptions and occlusion.

Random numbers depend only on a seed and an image's position in the dataset, so every network sees the same images.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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
"""Images with values from 0 (black) to 1."""


def pixel_logits(network: Network, pixels: Pixels) -> Float[Tensor, "batch classes"]:
    """A network's logits of pixels from 0 to 1, differentiable with respect to the pixels."""
    return network(network.normalize(255 * pixels)).float()


class Shift(ABC):
    """A change of test images."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in results."""

    @abstractmethod
    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, network: Network) -> Pixels:
        """Shift a batch whose first image has this position in the dataset; the network is the one to attack."""


def _drawn(sample: Callable[..., Tensor], pixels: Pixels, shape: Sequence[int], first: int, *labels: str) -> Tensor:
    """Random numbers for each image, which depend on its position in the dataset alone."""

    def draw(rows: int, source: torch.Generator) -> Tensor:
        return sample(rows, *shape, generator=source, device=pixels.device)

    return by_rows(draw, pixels.device, first, len(pixels), 0, *labels)


def _symmetric(*size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.empty(*size, device=device).uniform_(-1, 1, generator=generator)


def loss_gradient_sign(network: Network, pixels: Pixels, labels: Int64[Tensor, " batch"]) -> Pixels:
    """Sign of the gradient of each image's cross-entropy with respect to its pixels."""
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(pixel_logits(network, pixels), labels, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0].sign()


@dataclass(frozen=True)
class FGSM(Shift):
    """A white-box attack of one step: `x + epsilon * sign(d loss / d x)`, clamped to valid pixels.

    Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4. Epsilon is the L-infinity
    bound, as a fraction of the pixel range.
    """

    epsilon: float

    @property
    def name(self) -> str:
        """The attack with its bound."""
        return f"FGSM, {self.epsilon:.4g}"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, network: Network) -> Pixels:
        """The attacked images."""
        return (pixels + self.epsilon * loss_gradient_sign(network, pixels, labels)).clamp(0, 1)


@dataclass(frozen=True)
class PGD(Shift):
    """A white-box attack of many small steps from a random start, projected onto the L-infinity ball.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1. Each step has
    the size 2.5 epsilon / steps.
    """

    epsilon: float
    steps: int = 10

    @property
    def name(self) -> str:
        """The attack with its bound and number of steps."""
        return f"PGD, {self.epsilon:.4g}, {self.steps} steps"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, network: Network) -> Pixels:
        """The attacked images."""
        start = _drawn(_symmetric, pixels, pixels.shape[1:], first, "pgd")
        low, high = (pixels - self.epsilon).clamp(min=0), (pixels + self.epsilon).clamp(max=1)
        attacked = (pixels + self.epsilon * start).clamp(low, high)
        for _ in range(self.steps):
            step = 2.5 * self.epsilon / self.steps * loss_gradient_sign(network, attacked, labels)
            attacked = (attacked + step).clamp(low, high)
        return attacked


@dataclass(frozen=True)
class Occlusion(Shift):
    """A grey rectangle of the image's aspect ratio at a random position, with a fraction of the image's area."""

    fraction: float

    @property
    def name(self) -> str:
        """The occlusion with its area in percent."""
        return f"occlusion, {100 * self.fraction:.3g} %"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, network: Network) -> Pixels:
        """The occluded images."""
        height, width = pixels.shape[2:]
        rows, columns = (round(side * self.fraction**0.5) for side in (height, width))
        position = _drawn(torch.rand, pixels, (2, 1), first, "occlusion")
        room = torch.tensor([height - rows + 1, width - columns + 1], device=pixels.device).view(1, 2, 1)
        top, left = (position * room).long().unbind(1)
        y, x = (torch.arange(side, device=pixels.device).unsqueeze(0) for side in (height, width))
        hidden_rows, hidden_columns = (y >= top) & (y < top + rows), (x >= left) & (x < left + columns)
        hidden = (hidden_rows.unsqueeze(2) & hidden_columns.unsqueeze(1)).unsqueeze(1)
        return torch.where(hidden, 0.5, pixels)


Draw = Callable[[str], Tensor]
"""Draws `uniform` or `normal` numbers of the images' shape."""
Change = Callable[[Pixels, float, Draw], Pixels]


def _convolve(pixels: Pixels, kernel: Tensor, *, along_rows: bool) -> Pixels:
    """Convolve rows or columns with a kernel; edges are replicated."""
    channels, half = pixels.shape[1], len(kernel) // 2
    padding = [half, half, 0, 0] if along_rows else [0, 0, half, half]
    weight = kernel.view(1, 1, 1, -1) if along_rows else kernel.view(1, 1, -1, 1)
    return F.conv2d(F.pad(pixels, padding, "replicate"), weight.expand(channels, 1, -1, -1), groups=channels)


def _impulse_noise(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    chance = draw("uniform")
    return torch.where(chance < amount / 2, 0.0, torch.where(chance > 1 - amount / 2, 1.0, pixels))


def _gaussian_blur(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    std = amount * pixels.shape[2]
    half = max(1, round(3 * std))
    offsets = torch.arange(-half, half + 1, device=pixels.device)
    kernel = (-0.5 * (offsets / std).square()).exp()
    kernel = kernel / kernel.sum()
    return _convolve(_convolve(pixels, kernel, along_rows=True), kernel, along_rows=False)


def _motion_blur(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    length = 2 * max(1, round(amount * pixels.shape[3] / 2)) + 1
    return _convolve(pixels, torch.full((length,), 1 / length, device=pixels.device), along_rows=True)


def _contrast(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return mean + amount * (pixels - mean)


def _fog(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    coarse = F.adaptive_avg_pool2d(draw("uniform").mean(1, keepdim=True), 4)
    field = F.interpolate(coarse, size=pixels.shape[2:], mode="bilinear", align_corners=False)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    density = amount * (0.5 + 0.5 * (field - low) / (high - low).clamp(min=1e-6))
    return pixels * (1 - density) + density


def _pixelate(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    height, width = (max(1, round(amount * side)) for side in pixels.shape[2:])
    return F.interpolate(F.adaptive_avg_pool2d(pixels, (height, width)), size=pixels.shape[2:], mode="nearest-exact")


def _jpeg(pixels: Pixels, amount: float, draw: Draw) -> Pixels:
    stored = (pixels * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    decoded = []
    for picture in stored:
        buffer = io.BytesIO()
        image = Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture)
        image.save(buffer, "JPEG", quality=int(amount))
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))).view(picture.shape))
    return torch.stack(decoded).permute(0, 3, 1, 2).to(pixels.device).float() / 255


CORRUPTIONS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "gaussian-noise": (lambda pixels, std, draw: pixels + std * draw("normal"), (0.04, 0.08, 0.12, 0.18, 0.26)),
    # With many photons, Poisson noise is nearly Gaussian, and Gaussian noise can be drawn image by image.
    "shot-noise": (
        lambda pixels, photons, draw: pixels + (pixels / photons).sqrt() * draw("normal"),
        (100.0, 40.0, 20.0, 10.0, 5.0),
    ),
    "impulse-noise": (_impulse_noise, (0.02, 0.05, 0.10, 0.17, 0.27)),
    "gaussian-blur": (_gaussian_blur, (0.015, 0.025, 0.035, 0.05, 0.07)),
    "motion-blur": (_motion_blur, (0.10, 0.17, 0.24, 0.31, 0.40)),
    "brightness": (lambda pixels, amount, draw: pixels + amount, (0.10, 0.20, 0.30, 0.40, 0.50)),
    "contrast": (_contrast, (0.75, 0.55, 0.40, 0.25, 0.15)),
    "fog": (_fog, (0.25, 0.40, 0.55, 0.70, 0.85)),
    "pixelate": (_pixelate, (0.80, 0.65, 0.50, 0.40, 0.30)),
    "jpeg": (_jpeg, (50.0, 30.0, 18.0, 12.0, 7.0)),
}
"""The corruptions with their amount at each severity.

In this order: standard deviation of the noise; photons at white; fraction of pixels; standard deviation of the blur and
length of the motion as fractions of the image's side; added brightness; remaining contrast; density of the fog;
remaining resolution; JPEG quality.
"""


@dataclass(frozen=True)
class Corruption(Shift):
    """A common corruption of `CORRUPTIONS` with a severity of 1 to 5, after Hendrycks and Dietterich, ICLR 2019."""

    kind: str
    severity: int

    @property
    def name(self) -> str:
        """The corruption with its severity."""
        return f"{self.kind} {self.severity}"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, network: Network) -> Pixels:
        """The corrupted images."""
        change, amounts = CORRUPTIONS[self.kind]

        def draw(distribution: str) -> Tensor:
            sample = torch.randn if distribution == "normal" else torch.rand
            return _drawn(sample, pixels, pixels.shape[1:], first, "corruption", self.kind)

        return change(pixels, amounts[self.severity - 1], draw).clamp(0, 1)
