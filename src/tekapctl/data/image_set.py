"""Images with their labels, in memory or in files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from tekapctl.data.files.streaming import ImageFiles
from tekapctl.errors import UsageError
from tekapctl.randomness import generator


@dataclass(frozen=True)
class ImageSet:
    """Images of a classification task.

    Attributes:
        images: Pixels from 0 to 255, or the image files.
        labels: Class numbers, starting at 0.
        classes: Class names, by number.
        mean: Mean of each channel over the training images, in [0, 1].
        std: Standard deviation of each channel, in the same units.
        source_index: For a subset, the index of each image in the full set; else None.
        full_images: For a subset, the images of the full set; else None.
        label_weights: Weight of each label in the cross-entropy, 0 where the image has none and 1 on average; None
            where all have one.

    Raises:
        UsageError: The numbers of images and labels differ, or a label is out of range.
    """

    images: UInt8[Tensor, "n c h w"] | ImageFiles
    labels: Int64[Tensor, " n"]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source_index: Int64[Tensor, " n"] | None = None
    full_images: UInt8[Tensor, "all _c h w"] | ImageFiles | None = None
    label_weights: Float[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise UsageError(
                f"The dataset is damaged: {len(self.images)} images and {len(self.labels)} labels.", "Fetch it again."
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.classes):
            raise UsageError(
                f"The dataset is damaged: a label exceeds its {len(self.classes)} classes.", "Fetch it again."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width in pixels."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def is_grey(self) -> bool:
        """Whether the images have a single channel, which may be repeated for a network."""
        if isinstance(self.images, ImageFiles):
            return self.images.channels == 1
        return self.images.shape[1] == 1 or self.images.stride(1) == 0

    @property
    def center_crop(self) -> float:
        """The fraction of an image file's largest center crop that is shown, by side length."""
        return self.images.center_crop if isinstance(self.images, ImageFiles) else 1.0

    def subset(self, fraction: float | int, seed: int, imbalance: float | int = 1) -> "ImageSet":
        """A random subset with a fraction of each class's images, and at least one; samples keep their order.

        Args:
            fraction: Fraction of each class's images, above 0 and at most 1.
            seed: Equal seeds give equal subsets.
            imbalance: Ratio of the first class's fraction to the last one's; see `long_tail`.
        """
        if fraction >= 1 and imbalance == 1:
            return self
        fractions = [fraction * each for each in long_tail(len(self.classes), imbalance)]
        source = generator(torch.device("cpu"), seed, "subset")
        kept = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero().flatten()
            if len(members):
                count = max(1, round(fractions[label] * len(members)))
                kept.append(members[torch.randperm(len(members), generator=source)[:count]])
        return self.select(torch.cat(kept).sort().values)

    def select(self, chosen: Int64[Tensor, " _chosen"]) -> "ImageSet":
        """A subset of the samples."""
        return replace(
            self,
            images=self.images[chosen],
            labels=self.labels[chosen],
            source_index=chosen if self.source_index is None else self.source_index[chosen],
            full_images=self.images if self.full_images is None else self.full_images,
            label_weights=None if self.label_weights is None else self.label_weights[chosen],
        )

    def hold_out(self, fraction: float, files: Sequence[str] = ()) -> tuple["ImageSet", "ImageSet"]:
        """Split off validation images, a fraction of each class; of two or more images each side keeps at least one.

        The smallest hashes of file names, or of pixels where there are no files, are held out, so that an image usually
        stays on its side when others are added. By their names, files stay on their side in any image size, and whether
        they are streamed or not.

        Returns:
            The remaining images and the validation images.

        Raises:
            UsageError: No class has two images.
        """
        hashes = torch.tensor([_hash(key) for key in self._keys(files)])
        held = []
        for label in range(len(self.classes)):
            members = (self.labels == label).nonzero().flatten()
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            held.append(members[hashes[members].argsort(stable=True)[: max(0, count)]])
        if not len(torch.cat(held)):
            raise UsageError(
                "No class has two training images, so none can be held out.", "Leave val_fraction out, or add images."
            )
        is_held = torch.zeros(len(self), dtype=torch.bool)
        is_held[torch.cat(held)] = True
        return self.select((~is_held).nonzero().flatten()), self.select(is_held.nonzero().flatten())

    def in_size_of(self, other: "ImageSet") -> "ImageSet":
        """The same images, decoded in the size of another set if they are files."""
        if not (isinstance(self.images, ImageFiles) and isinstance(other.images, ImageFiles)):
            return self
        own = self.images
        return self if own.size == other.images.size else replace(self, images=own.in_size(other.images.size))

    def _keys(self, files: Sequence[str]) -> Iterator[bytes]:
        """What identifies each image: the end of its path, or its pixels."""
        if isinstance(self.images, ImageFiles):
            files = self.images.paths
        if files:
            yield from ("/".join(Path(path).parts[-2:]).encode(errors="surrogateescape") for path in files)
        elif isinstance(self.images, Tensor):
            yield from (image.contiguous().numpy().tobytes() for image in self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the full set's pixels; all subsets of a set have the same."""
        full = self.images if self.full_images is None else self.full_images
        digest = hashlib.sha256(repr((tuple(full.shape), self.image_shape)).encode())
        if isinstance(full, ImageFiles):
            digest.update(full.identify())
        else:
            for part in full.split(4096):
                digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def subsample(self, count: int) -> "ImageSet":
        """At most `count` samples, evenly spaced over the set."""
        if count >= len(self):
            return self
        chosen = torch.arange(count) * len(self) // count
        part = self.select(chosen)
        return part if self.full_images is not None else replace(part, source_index=None, full_images=None)

    def with_channels(self, channels: int) -> "ImageSet":
        """The set in the number of channels that a network takes; a single channel is repeated.

        Raises:
            UsageError: The images have several channels, and not that many.
        """
        own = self.images.shape[1]
        if own == channels:
            return self
        if own != 1:
            raise UsageError(
                f"The images have {own} channels, but the network takes {channels}.",
                "Use a network trained on such images.",
            )
        return replace(
            self,
            images=self.images.expand(-1, channels, -1, -1),
            mean=self.mean * channels,
            std=self.std * channels,
        )


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def long_tail(classes: int, imbalance: float | int) -> list[float]:
    """The fraction of each class's images that is kept: `imbalance ** (-i / (classes - 1))` for class i.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.
    """
    return [float(imbalance) ** (-number / max(1, classes - 1)) for number in range(classes)]


ChannelStatistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in [0, 1]."""


def histogram(images: UInt8[Tensor, "n c h w"]) -> Float64[Tensor, "c 256"]:
    """The number of pixels of each value in each channel."""
    channels = images.shape[1]
    return torch.stack([torch.bincount(images[:, c].flatten().int(), minlength=256) for c in range(channels)]).double()


def channel_statistics(counts: Float64[Tensor, "c 256"]) -> ChannelStatistics:
    """Mean and standard deviation of each channel, from its histogram."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
    mean = weights @ levels
    std = (weights @ levels.square() - mean.square()).clamp(min=0).sqrt()
    # The standard deviation of a constant channel is zero, by which nothing can be divided.
    return tuple(mean.tolist()), tuple(max(value, 1 / 255) for value in std.tolist())


@dataclass(frozen=True)
class Splits:
    """The training and test images of a dataset, and how they were separated.

    Epochs are evaluated on the validation images, if some are held out of the training images, else on the test images;
    they are chosen by the names of the training images' `files`, if there are any.
    """

    train: ImageSet
    test: ImageSet
    notes: tuple[str, ...] = ()
    split: str = "its own test set"
    val: ImageSet | None = None
    files: tuple[str, ...] = ()
