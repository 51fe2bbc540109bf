"""STL-10: 13,000 labelled colour images of 96x96 pixels in ten classes (Coates, Lee and Ng, AISTATS 2011)."""

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tekapctl.data.fetching import count_images, fetch_whole
from tekapctl.data.files.folders import count_levels, normalisation
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DATASETS, DataSpec, Shape, check_md5, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.archive import members
from tekapctl.store.atomic import atomic_write, make_folder
from tekapctl.store.download import Report, download, file_in, published, silent

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
INNER = "stl10_binary"
_IMAGE = 3 * 96 * 96
_FILES = {
    f"{part}_{what}.bin": size * images
    for part, images in (("train", 5_000), ("test", 8_000))
    for what, size in (("X", _IMAGE), ("y", 1))
}
_MOST_ARCHIVE = 3 * 2**30


@DATASETS.register("stl10")
class STL10(DataSpec):
    """The labelled images alone; the 100,000 without labels are not read."""

    name: Literal["stl10"] = "stl10"
    padding: int = 12
    flip: bool = True

    def shape(self, downloads: Path) -> Shape:
        """5,000 training images and 8,000 test images."""
        return Shape(5_000, 8_000, 10, 3, 96, 96)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets."""
        folder = find_folder(self, downloads, list(_FILES), INNER)
        train_images, train_labels, test_images, test_labels = (_bytes(folder / name) for name in _FILES)
        train, test = _images(folder, train_images, train_labels), _images(folder, test_images, test_labels)
        mean, std = normalisation(count_levels(train))
        return Splits(
            ImageSet(train, train_labels.long() - 1, CLASSES, mean, std),
            ImageSet(test, test_labels.long() - 1, CLASSES, mean, std),
        )

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the archive and keep the labelled files; one from a source of the user's own has no checksum."""
        from torchvision.datasets import STL10 as Published  # noqa: N811

        sources = [file_in(source, Published.filename, ".tar.gz")] if source else published(Published.url)

        def fill(folder: Path, parts: Path) -> None:
            name = Published.filename
            with download(sources, parts, name, most_bytes=_MOST_ARCHIVE, report=report) as file:
                if source is None:
                    check_md5(file.path, Published.tgz_md5)
                _keep_labelled(file.path, make_folder(folder / INNER))

        return fetch_whole(downloads / self.name, fill, partial(count_images, self), anew=force or source is not None)


def _images(folder: Path, pixels: Tensor, labels: Tensor) -> Tensor:
    if len(pixels) != len(labels) * _IMAGE or not len(labels) or int(labels.min()) < 1 or int(labels.max()) > 10:
        raise UsageError(f"The files in {folder} are damaged: no images with labels.", "Fetch them anew.")
    # Columns come before rows in these files, and classes begin at 1.
    return pixels.view(-1, 3, 96, 96).transpose(2, 3).contiguous()


def _keep_labelled(archive: Path, folder: Path) -> None:
    wanted = dict(_FILES)
    for member in members(archive, most_bytes=_MOST_ARCHIVE):
        name = member.path.name
        if name not in wanted:
            continue
        if member.size > wanted.pop(name):
            raise UsageError(f"{member.path} in {archive} is larger than it should be.", "Fetch it anew.")
        atomic_write(folder / name, member.read())
        if not wanted:
            return  # the images without labels come last, and are most of it
    raise UsageError(f"The archive {archive} has no {', '.join(wanted)}.", "Use another.")


def _bytes(path: Path) -> Tensor:
    if not path.is_file():
        raise UsageError(f"The file {path.name} is missing in {path.parent}.", "Add it, or fetch the data set.")
    if path.stat().st_size > 8_000 * _IMAGE:
        raise UsageError(f"{path} is far larger than it should be.", "Fetch it anew.")
    return torch.frombuffer(bytearray(path.read_bytes()) or bytearray(1), dtype=torch.uint8)
