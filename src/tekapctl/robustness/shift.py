"""What is done to test images before a network sees them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from tekapctl.models import Network

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
