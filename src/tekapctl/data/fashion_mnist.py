"""Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels (Xiao, Rasul and Vollgraf, 2017)."""

import gzip
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Literal

import torch

from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.source import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, download, silent

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
MOST_PIXELS = 256 * 2**20


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

        folder = downloads / self.name
        for name, md5 in Published.resources:
            target = folder / name
            if force or source:
                target.unlink(missing_ok=True)
            urls = [f"{base.rstrip('/')}/{name}" for base in ([source] if source else Published.mirrors)]
            download(urls, target, most_bytes=MOST_BYTES, report=report)
            if source is None:
                check_md5(target, md5)
        self.load(downloads, offline=True)
        return f"70,000 images at {folder}"


def _read(folder: Path, name: str) -> torch.Tensor:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    plain, packed = folder / name, folder / f"{name}.gz"
    try:
        if plain.is_file():
            if plain.stat().st_size > MOST_PIXELS:
                raise UsageError(f"{plain} is far larger than it should be.", "Fetch it anew.")
            return read_sn3_pascalvincent_tensor(str(plain))
        with gzip.open(packed) as file, tempfile.NamedTemporaryFile() as unpacked:
            content = file.read(MOST_PIXELS + 1)
            if len(content) > MOST_PIXELS:
                raise UsageError(f"{packed} is far larger than it should be.", "Fetch it anew.")
            unpacked.write(content)
            unpacked.flush()
            return read_sn3_pascalvincent_tensor(unpacked.name)
    except FileNotFoundError:
        raise UsageError(
            f"The file {name} or {name}.gz is missing in {folder}.", "Add it, or fetch the data set."
        ) from None
    except (OSError, EOFError, zlib.error, AssertionError, ValueError, RuntimeError, KeyError, IndexError):
        where = plain if plain.is_file() else packed
        raise UsageError(f"The file {where} is damaged.", "Fetch it anew with `tekapctl fetch --force`.") from None
