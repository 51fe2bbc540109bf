"""Fashion-MNIST: 70,000 grayscale images of clothes, 28x28 pixels (Xiao, Rasul and Vollgraf, 2017)."""

import gzip
import math
import struct
import sys
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.in_memory import InMemorySpec, Part, reading
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.errors import UsageError

CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
FILES = tuple(_MD5)
MAX_BYTES = 64 * 2**20
_MAX_LABELS = 2**20
_BYTES = 8
"""The IDX format's number for unsigned bytes."""


@DATASETS.register("fashion-mnist")
class FashionMNIST(InMemorySpec):
    """Read from `folder`, from the fetched datasets, or from Debian's package `dataset-fashion-mnist`."""

    name: Literal["fashion-mnist"] = "fashion-mnist"
    hub_id: ClassVar = "zalando-datasets/fashion_mnist"
    transfers_to: ClassVar = ("digits",)
    padding: int = 4
    flip: bool = True
    published: ClassVar = tuple(
        PublishedFile(f"{name}.gz", [f"{_ADDRESS}/{name}.gz"], MAX_BYTES, md5) for name, md5 in _MD5.items()
    )
    published_shape: ClassVar = Shape(60_000, 10_000, 10, 1, 28, 28)
    file_names: ClassVar = (*FILES, *(f"{name}.gz" for name in FILES))
    inner: ClassVar = "FashionMNIST/raw"
    elsewhere: ClassVar = tuple(
        Path(root) / "share/datasets/fashion-mnist" for root in dict.fromkeys([sys.prefix, "/usr/local", "/usr"])
    )
    mean: ClassVar = (0.2860,)
    std: ClassVar = (0.3530,)

    def read(self, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
        train, train_labels, test, test_labels = (_read(folder, name) for name in FILES)
        return (train.unsqueeze(1), train_labels.long()), (test.unsqueeze(1), test_labels.long()), CLASSES


def _read(folder: Path, name: str) -> Tensor:
    """Read the images or labels of an IDX file, which may be compressed."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else packed
    with reading(path, MAX_BYTES), path.open("rb") if path is plain else gzip.open(path) as file:
        zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        if zeros or kind != _BYTES or not 1 <= dimensions <= 3 or 0 in shape:
            raise ValueError("it is no IDX file of bytes")
        if math.prod(shape) > (MAX_BYTES if dimensions > 1 else _MAX_LABELS):
            raise UsageError(f"{path} is larger than expected.", "Fetch it again.")
        content = bytearray(file.read(math.prod(shape) + 1))
        if len(content) != math.prod(shape):
            raise ValueError("it does not have the length that it states")
        return torch.frombuffer(content, dtype=torch.uint8).view(shape)
