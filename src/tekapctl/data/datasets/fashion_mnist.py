"""Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels (Xiao, Rasul and Vollgraf, 2017)."""

import gzip
import math
import struct
import sys
import zlib
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from tekapctl.data.fetching import count_images, fetch_whole
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, download, file_in, published, silent

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
MOST_BYTES = 64 * 2**20
MOST_PIXELS = 64 * 2**20
_MOST_LABELS = 2**20
_BYTES = 8
"""The IDX format's number for unsigned bytes."""


@DATASETS.register("fashion-mnist")
class FashionMNIST(DataSpec):
    """Found in `folder`, among the fetched data sets, or where Debian's package `dataset-fashion-mnist` puts it."""

    name: Literal["fashion-mnist"] = "fashion-mnist"
    padding: int = 4
    flip: bool = True

    def shape(self, downloads: Path) -> Shape:
        """60,000 training images and 10,000 test images."""
        return Shape(60_000, 10_000, 10, 1, 28, 28)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets."""
        system = [
            Path(root) / "share/datasets/fashion-mnist" for root in dict.fromkeys([sys.prefix, "/usr/local", "/usr"])
        ]
        folder = find_folder(self, downloads, [*FILES, *(f"{name}.gz" for name in FILES)], "FashionMNIST/raw", system)
        train_images, train_labels, test_images, test_labels = (_read(folder, name) for name in FILES)

        def part(images: torch.Tensor, labels: torch.Tensor) -> ImageSet:
            if images.dim() != 3 or labels.dim() != 1:
                raise UsageError(f"The files in {folder} are damaged: no images with labels.", "Fetch them anew.")
            return ImageSet(images.unsqueeze(1), labels.long(), CLASSES, (0.2860,), (0.3530,))

        return Splits(part(train_images, train_labels), part(test_images, test_labels))

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the four files; those from a source of the user's own need no known checksum."""
        from torchvision.datasets import FashionMNIST as Published

        def fill(folder: Path, parts: Path) -> None:
            for name, md5 in Published.resources:
                addresses = [f"{base.rstrip('/')}/{name}" for base in Published.mirrors]
                sources = [file_in(source, name)] if source else published(*addresses)
                with download(sources, parts, name, most_bytes=MOST_BYTES, report=report) as file:
                    if source is None:
                        check_md5(file.path, md5)
                    file.place(folder / name)

        return fetch_whole(
            downloads / self.name,
            fill,
            partial(count_images, self),
            anew=force or source is not None,
            published=dict(Published.resources),
        )


def _read(folder: Path, name: str) -> torch.Tensor:
    """The images or labels of a file in the IDX format, packed or not."""
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
            if math.prod(shape) > (MOST_PIXELS if dimensions > 1 else _MOST_LABELS):
                raise UsageError(f"{path} is far larger than it should be.", "Fetch it anew.")
            content = bytearray(file.read(math.prod(shape) + 1))
            if len(content) != math.prod(shape):
                raise ValueError
    except (OSError, EOFError, zlib.error, ValueError, struct.error):
        raise UsageError(f"The file {path} is damaged.", "Fetch it anew with `tekapctl fetch --force`.") from None
    return torch.frombuffer(content, dtype=torch.uint8).view(shape)
