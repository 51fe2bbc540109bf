"""STL-10: 13,000 labelled colour images of 96x96 pixels in ten classes (Coates, Lee and Ng, AISTATS 2011)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.image_set import ImageSet, Splits, channel_statistics, histogram
from tekapctl.data.spec import DATASETS, DataSpec, Shape, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.archive import members
from tekapctl.store.atomic import atomic_write
from tekapctl.store.download import Downloaded

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
INNER = "stl10_binary"
_IMAGE = 3 * 96 * 96
_FILES = {
    f"{part}_{what}.bin": size * images
    for part, images in (("train", 5_000), ("test", 8_000))
    for what, size in (("X", _IMAGE), ("y", 1))
}
_MAX_ARCHIVE = 3 * 2**30


@DATASETS.register("stl10")
class STL10(DataSpec):
    """The labelled images; the 100,000 unlabelled ones are not read."""

    name: Literal["stl10"] = "stl10"
    padding: int = 12
    flip: bool = True

    def shape(self, downloads: Path) -> Shape:
        """5,000 training images and 8,000 test images."""
        return Shape(5_000, 8_000, 10, 3, 96, 96)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets."""
        folder = find_folder(self, downloads, list(_FILES), INNER)
        train_images, train_labels, test_images, test_labels = (_bytes(folder / name) for name in _FILES)
        train, test = _images(folder, train_images, train_labels), _images(folder, test_images, test_labels)
        mean, std = channel_statistics(histogram(train))
        return Splits(
            ImageSet(train, train_labels.long() - 1, CLASSES, mean, std),
            ImageSet(test, test_labels.long() - 1, CLASSES, mean, std),
        )

    def published_files(self) -> Sequence[PublishedFile]:
        """The archive."""
        from torchvision.datasets import STL10 as Published  # noqa: N811

        return [PublishedFile(Published.filename, [Published.url], _MAX_ARCHIVE, Published.tgz_md5)]

    def unpack(self, file: Downloaded, folder: Path, name: str) -> None:
        """Keep the labelled files of the archive."""
        wanted, archive = dict(_FILES), file.path
        for member in members(archive, max_bytes=_MAX_ARCHIVE):
            if member.path.name not in wanted:
                continue
            if member.size > wanted.pop(member.path.name):
                raise UsageError(f"{member.path} in {archive} is larger than expected.", "Fetch it again.")
            atomic_write(folder / INNER / member.path.name, member.read())
            if not wanted:
                return  # the unlabelled images come last and are most of the archive
        raise UsageError(f"The archive {archive} has no {', '.join(wanted)}.", "Use another archive.")


def _images(folder: Path, pixels: Tensor, labels: Tensor) -> Tensor:
    if len(pixels) != len(labels) * _IMAGE or not len(labels) or int(labels.min()) < 1 or int(labels.max()) > 10:
        raise UsageError(f"The files in {folder} are damaged: they hold no images with labels.", "Fetch them again.")
    # In these files columns come before rows, and classes start at 1.
    return pixels.view(-1, 3, 96, 96).transpose(2, 3).contiguous()


def _bytes(path: Path) -> Tensor:
    if not path.is_file():
        raise UsageError(f"The file {path.name} is missing in {path.parent}.", "Add it, or fetch the data set.")
    if path.stat().st_size > 8_000 * _IMAGE:
        raise UsageError(f"{path} is larger than expected.", "Fetch it again.")
    return torch.frombuffer(bytearray(path.read_bytes()) or bytearray(1), dtype=torch.uint8)
