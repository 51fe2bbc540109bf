"""Adversarial noise: small changes of pixels that make a network err.

Both are bounded in each pixel (L-infinity), in units of the range from black to white, and white-box: they follow the
gradient of the network that is measured.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn import functional as F

from tekapctl.commands.robustness.shift import Pixels, Seen, Shift
from tekapctl.randomness import by_rows


def ascent(pixels: Pixels, labels: Int64[Tensor, " batch"], seen: Seen) -> Pixels:
    """The sign of the gradient of each image's cross-entropy in its pixels."""
    pixels = pixels.detach().requires_grad_()
    with torch.enable_grad():
        loss = F.cross_entropy(seen.logits(pixels), labels, reduction="sum")
    return torch.autograd.grad(loss, pixels)[0].sign()


@dataclass(frozen=True)
class FGSM(Shift):
    """One step along the gradient's sign: `x + epsilon * sign(d loss / d x)`, cut to the valid pixels.

    Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015, section 4.

    Attributes:
        epsilon: The change of each pixel.
    """

    epsilon: float

    @property
    def name(self) -> str:
        """With its bound."""
        return f"FGSM, {self.epsilon:.4g}"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, seen: Seen) -> Pixels:
        """The attacked images."""
        return (pixels + self.epsilon * ascent(pixels, labels, seen)).clamp(0, 1)


@dataclass(frozen=True)
class PGD(Shift):
    """Many small steps from a random start, kept within the bound.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, section 2.1.

    Attributes:
        epsilon: The most that each pixel is changed by.
        steps: How many steps, each of 2.5 epsilon / steps.
    """

    epsilon: float
    steps: int = 10

    @property
    def name(self) -> str:
        """With its bound and number of steps."""
        return f"PGD, {self.epsilon:.4g}, {self.steps} steps"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, seen: Seen) -> Pixels:
        """The attacked images."""

        def draw(rows: int, source: torch.Generator) -> Tensor:
            return torch.empty(rows, *pixels.shape[1:], device=pixels.device).uniform_(-1, 1, generator=source)

        start = by_rows(draw, pixels.device, first, len(pixels), 0, "pgd")
        low, high = (pixels - self.epsilon).clamp(min=0), (pixels + self.epsilon).clamp(max=1)
        found = (pixels + self.epsilon * start).clamp(low, high)
        for _ in range(self.steps):
            found = (found + 2.5 * self.epsilon / self.steps * ascent(found, labels, seen)).clamp(low, high)
        return found


@dataclass(frozen=True)
class Occlusion(Shift):
    """A grey rectangle of the image's proportions at a random place.

    Attributes:
        share: Its share of the image's area.
    """

    share: float

    @property
    def name(self) -> str:
        """With its share."""
        return f"occlusion, {100 * self.share:.3g} %"

    def __call__(self, pixels: Pixels, labels: Int64[Tensor, " batch"], first: int, seen: Seen) -> Pixels:
        """The images behind it."""
        height, width = pixels.shape[2:]
        rows, columns = (round(side * self.share**0.5) for side in (height, width))

        def draw(count: int, source: torch.Generator) -> Tensor:
            return torch.rand(count, 2, 1, generator=source, device=pixels.device)

        place = by_rows(draw, pixels.device, first, len(pixels), 0, "occlusion")
        room = torch.tensor([height - rows + 1, width - columns + 1], device=pixels.device).view(1, 2, 1)
        top, left = (place * room).long().unbind(1)
        down, across = (torch.arange(side, device=pixels.device).unsqueeze(0) for side in (height, width))
        hidden_down, hidden_across = (down >= top) & (down < top + rows), (across >= left) & (across < left + columns)
        hidden = (hidden_down.unsqueeze(2) & hidden_across.unsqueeze(1)).unsqueeze(1)
        return torch.where(hidden, 0.5, pixels)
