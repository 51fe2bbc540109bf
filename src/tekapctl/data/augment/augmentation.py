"""What every augmentation has: settings, and random numbers that do not depend on how a batch is divided."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field
from torch import Tensor

from tekapctl.registry import Registry
from tekapctl.settings import Settings


@dataclass(frozen=True)
class Draws:
    """Random numbers for some images of a step's batch, the same whichever other images are augmented with them.

    Attributes:
        source: A CPU generator, seeded for the step.
        count: Number of images in the step's batch.
        rows: Positions of the images in that batch; on the CPU.
    """

    source: torch.Generator
    count: int
    rows: Int64[Tensor, " batch"]

    def uniform(self, *shape: int) -> Float[Tensor, "batch ..."]:
        """Numbers in [0, 1) for each image; on the CPU."""
        return torch.rand(self.count, *shape, generator=self.source)[self.rows]

    def integers(self, high: int, *shape: int) -> Int64[Tensor, "batch ..."]:
        """Integers in [0, high) for each image; on the CPU."""
        return torch.randint(high, (self.count, *shape), generator=self.source)[self.rows]

    def once(self) -> float:
        """A number in [0, 1) for the whole batch."""
        return float(torch.rand((), generator=self.source))

    def larger_share(self, alpha: float) -> float:
        """A number from Beta(alpha, alpha) for the whole batch, or 1 minus it, whichever is larger."""
        seed = int(torch.randint(2**62, (), generator=self.source))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = float(torch.distributions.Beta(alpha, alpha).sample())
        return max(drawn, 1 - drawn)


class AugmentSpec(Settings, ABC):
    """An augmentation of training images."""

    name: str = Field(description="Name of the augmentation.")

    def apply(self, images: Shaped[Tensor, "batch c h w"], draws: Draws) -> Shaped[Tensor, "batch c h w"]:
        """Augment each image by itself.

        Args:
            images: Pixels from 0 to 255, on any device.
            draws: Random numbers for them.

        Raises:
            UsageError: Images of this size or number of channels cannot be augmented so.
        """
        return images


class MixSpec(AugmentSpec, ABC):
    """An augmentation that mixes each image, and its label, with another one of the batch.

    The other image has the smaller share, so that the label of the image is that of the larger part. As both are drawn
    alike, this leaves the distribution of mixed images as it is.
    """

    alpha: float = Field(1.0, ge=0.01, le=1e3, description="The images' shares are drawn from Beta(alpha, alpha).")

    @abstractmethod
    def mix(
        self, images: Shaped[Tensor, "batch c h w"], others: Shaped[Tensor, "batch c h w"], draws: Draws
    ) -> tuple[Shaped[Tensor, "batch c h w"], float]:
        """Mix images.

        Args:
            images: Pixels from 0 to 255.
            others: The image that each is mixed with.
            draws: Random numbers for them.

        Returns:
            The mixed images, and the share of `images` in them and in their labels, from 0.5 to 1.
        """


AUGMENTATIONS: Registry[type[AugmentSpec]] = Registry("augmentation", "tekapctl.data.augment")
