"""Occlusion: a square of each image is grey."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from tekapctl.randomness import by_rows
from tekapctl.robustness.shift import Pixels, Seen, Shift


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
