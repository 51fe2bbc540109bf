"""Fashion-MNIST: 70,000 grayscale images of clothes, 28x28 pixels (Xiao, Rasul and Vollgraf, 2017)."""

import gzip
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape, find_folder
from tekapctl.errors import UsageError

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
FILES = tuple(f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 2**20
_MAX_LABELS = 2**20
_BYTES = 8
"""The IDX format's number for unsigned bytes."""


@DATASETS.register("fashion-mnist")
class FashionMNIST(DataSpec):
    """Read from `folder`, from the fetched data sets, or from Debian's package `dataset-fashion-mnist`."""

    name: Literal["fashion-mnist"] = "fashion-mnist"
    padding: int = 4
    flip: bool = True

    def shape(self, downloads: Path) -> Shape:
        """60,000 training images and 10,000 test images."""
        return Shape(60_000, 10_000, 10, 1, 28, 28)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets."""
        system = [
            Path(root) / "share/datasets/fashion-mnist" for root in dict.fromkeys([sys.prefix, "/usr/local", "/usr"])
        ]
        folder = find_folder(self, downloads, [*FILES, *(f"{name}.gz" for name in FILES)], "FashionMNIST/raw", system)
        train_images, train_labels, test_images, test_labels = (_read(folder, name) for name in FILES)

        def part(images: torch.Tensor, labels: torch.Tensor) -> ImageSet:
            if images.dim() != 3 or labels.dim() != 1:
                raise UsageError(
                    f"The files in {folder} are damaged: they hold no images with labels.", "Fetch them again."
                )
            return ImageSet(images.unsqueeze(1), labels.long(), CLASSES, (0.2860,), (0.3530,))

        return Splits(part(train_images, train_labels), part(test_images, test_labels))

    def published_files(self) -> Sequence[PublishedFile]:
        """Images and labels of both sets."""
        from torchvision.datasets import FashionMNIST as Published

        return [
            PublishedFile(name, [f"{base.rstrip('/')}/{name}" for base in Published.mirrors], MAX_BYTES, md5)
            for name, md5 in Published.resources
        ]


def _read(folder: Path, name: str) -> torch.Tensor:
    """Read the images or labels of an IDX file, which may be compressed."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    if not path.is_file():
        raise UsageError(f"The file {name} or {name}.gz is missing in {folder}.", "Add it, or fetch the data set.")
    try:
        with path.open("rb") if path is plain else gzip.open(path) as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            if zeros or kind != _BYTES or not 1 <= dimensions <= 3 or 0 in shape:
                raise ValueError
            if math.prod(shape) > (MAX_PIXELS if dimensions > 1 else _MAX_LABELS):
                raise UsageError(f"{path} is larger than expected.", "Fetch it again.")
            content = bytearray(file.read(math.prod(shape) + 1))
            if len(content) != math.prod(shape):
                raise ValueError
    except (OSError, EOFError, zlib.error, ValueError, struct.error):
        raise UsageError(f"The file {path} is damaged.", "Fetch it again with `tekapctl fetch --force`.") from None
    return torch.frombuffer(content, dtype=torch.uint8).view(shape)
