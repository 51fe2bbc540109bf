"""What is done to test images before a network sees them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.data.image_set import ImageSet
from tekapctl.models import Network

Pixels = Float[Tensor, "batch c h w"]
"""Images whose values are between 0 (black) and 1."""


@dataclass(frozen=True)
class Normalisation:
    """What turns pixels between 0 and 1 into what a network takes.

    Attributes:
        mean: Of each channel.
        std: Of each channel.
    """

    mean: Float[Tensor, "1 c 1 1"]
    std: Float[Tensor, "1 c 1 1"]

    @classmethod
    def of(cls, image_set: ImageSet, device: torch.device) -> "Normalisation":
        """That of an image set."""
        mean, std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (image_set.mean, image_set.std)
        )
        return cls(mean, std)

    def pixels(self, images: Float[Tensor, "batch c h w"]) -> Pixels:
        """The pixels of normalised images."""
        return (images * self.std + self.mean).clamp(0, 1)

    def images(self, pixels: Pixels) -> Float[Tensor, "batch c h w"]:
        """Normalised images."""
        return (pixels - self.mean) / self.std


@dataclass(frozen=True)
class Seen:
    """The network that shifted images are for, as an attack may know it.

    Attributes:
        network: The network, in evaluation mode.
        normalisation: What it takes.
    """

    network: Network
    normalisation: Normalisation

    def logits(self, pixels: Pixels) -> Float[Tensor, "batch classes"]:
        """What it says of pixels; gradients reach them."""
        return self.network(self.normalisation.images(pixels)).float()


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
