"""STL-10: 13,000 labelled colour images of 96x96 pixels in ten classes (Coates, Lee and Ng, AISTATS 2011)."""

from contextlib import closing
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.in_memory import InMemorySpec, Part, reading
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.store.archive import wanted
from tekapctl.store.atomic import atomic_write
from tekapctl.store.download import Downloaded

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_IMAGE = 3 * 96 * 96
_SIZES = {
    f"{part}_{what}.bin": size * images
    for part, images in (("train", 5_000), ("test", 8_000))
    for what, size in (("X", _IMAGE), ("y", 1))
}
_MAX_ARCHIVE = 3 * 2**30


@DATASETS.register("stl10")
class STL10(InMemorySpec):
    """The labelled images; the 100,000 unlabelled ones are not read."""

    name: Literal["stl10"] = "stl10"
    padding: int = 12
    flip: bool = True
    published: ClassVar = (
        PublishedFile(
            "stl10_binary.tar.gz",
            ["http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"],
            _MAX_ARCHIVE,
            "91f7769df0f17e558f3565bffb0c7dfb",
        ),
    )
    published_shape: ClassVar = Shape(5_000, 8_000, 10, 3, 96, 96)
    file_names: ClassVar = tuple(_SIZES)
    inner: ClassVar = "stl10_binary"

    def read(self, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:

        def part(name: str) -> Part:
            # Columns come before rows, and classes start at 1.
            images = _bytes(folder / f"{name}_X.bin").view(-1, 3, 96, 96).transpose(2, 3).contiguous()
            return images, _bytes(folder / f"{name}_y.bin").long() - 1

        return part("train"), part("test"), CLASSES

    def unpack(self, file: Downloaded, folder: Path, name: str) -> None:
        # The unlabelled images come last and are most of the archive.
        sizes = {f"{self.inner}/{name}": size for name, size in _SIZES.items()}
        with closing(wanted(file.path, sizes, max_bytes=_MAX_ARCHIVE)) as found:
            for member in found:
                atomic_write(folder / member.path, member.read())


def _bytes(path: Path) -> Tensor:
    with reading(path, 8_000 * _IMAGE):
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
