"""Images with their labels, whole in memory or still in their files."""

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tekapctl.data.files.streaming import ImageFiles
from tekapctl.errors import UsageError
from tekapctl.randomness import generator


@dataclass(frozen=True)
class ImageSet:
    """Images of a classification task.

    Attributes:
        images: Pixels from 0 to 255, or the files that have them.
        labels: Class numbers from 0.
        classes: Names of the classes, by number.
        mean: Mean of each channel over the training images, in units of full brightness.
        std: Standard deviation of each channel, in the same units.
        numbers: The images' numbers in the whole set, where this is a share of it; else None.
        whole: The images of the whole set, where this is a share of it.

    Raises:
        UsageError: Images and labels do not belong together.
    """

    images: UInt8[Tensor, "n c h w"] | ImageFiles
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    numbers: Int64[Tensor, " n"] | None = None
    whole: UInt8[Tensor, "all _c h w"] | ImageFiles | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise UsageError(
                f"The data set is damaged: {len(self.images)} images and {len(self.labels)} labels.", "Fetch it anew."
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise UsageError(
                f"The data set is damaged: a label is beyond its {len(self.classes)} classes.", "Fetch it anew."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def middle(self) -> float:
        """How much of the largest middle part of a file's image is shown, as a share of its side."""
        return self.images.middle if isinstance(self.images, ImageFiles) else 1.0

    def subset(self, fraction: float | int, seed: int, imbalance: float | int = 1) -> "ImageSet":
        """A share of each class's images, at least one, drawn by seed; samples keep their order and are numbered anew.

        Args:
            fraction: Share of each class's images, above 0 and at most 1.
            seed: Equal seeds give equal subsets.
            imbalance: How many times the first class's share the last one's is; between them shares fall exponentially.
        """
        if fraction >= 1 and imbalance == 1:
            return self
        shares = [fraction * share for share in long_tail(len(self.classes), imbalance)]
        source = generator(torch.device("cpu"), seed, "subset")
        kept = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero().flatten()
            if len(members):
                count = max(1, round(shares[label] * len(members)))
                kept.append(members[torch.randperm(len(members), generator=source)[:count]])
        chosen = torch.cat(kept).sort().values
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], numbers=chosen, whole=self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's pixels; shares of one set have the same."""
        whole = self.images if self.whole is None else self.whole
        digest = hashlib.sha256(repr((tuple(whole.shape), self.image_shape)).encode())
        if isinstance(whole, ImageFiles):
            digest.update(whole.identify())
        else:
            for part in whole.split(4096):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def spread(self, count: int) -> "ImageSet":
        """So many of the samples, evenly spread over the set; all where there are no more.

        Args:
            count: How many.
        """
        if count >= len(self):
            return self
        chosen = torch.arange(count) * len(self) // count
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def with_channels(self, channels: int) -> "ImageSet":
        """The set in as many channels as a network takes: grey is repeated.

        Raises:
            UsageError: The images are not grey and have another number of channels.
        """
        own = self.images.shape[1]
        if own == channels:
            return self
        if own != 1:
            raise UsageError(
                f"The images have {own} channels, and the network takes {channels}.",
                "Use a network trained on such images.",
            )
        return replace(
            self,
            images=self.images.expand(-1, channels, -1, -1),
            mean=self.mean * channels,
            std=self.std * channels,
        )


def long_tail(classes: int, imbalance: float | int) -> list[float]:
    """The share of each class's images that is kept: `imbalance ** (-i / (classes - 1))`.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.

    Args:
        classes: How many there are.
        imbalance: Ratio of the first class's to the last one's.
    """
    return [float(imbalance) ** (-number / max(1, classes - 1)) for number in range(classes)]


@dataclass(frozen=True)
class Splits:
    """A data set's two image sets.

    Attributes:
        train: To learn from.
        test: To measure on.
        notes: What the user should know of them.
        split: How the two were told apart.
    """

    train: ImageSet
    test: ImageSet
    notes: tuple[str, ...] = ()
    split: str = "its own test set"
