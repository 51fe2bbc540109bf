"""Images of one's own: a folder with a folder for each class."""

import os
from collections.abc import Iterable, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from tekapctl.data.decoding import DamagedImageError, decode
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.source import DATASETS, DataSpec, Shape
from tekapctl.errors import UsageError
from tekapctl.randomness import generator

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_TEST_FOLDERS = ("test", "val", "validation", "valid")
_SHOWN = 3

Level = Annotated[float, Field(gt=0, lt=1)]
Channels = Literal["grey", "colour"]


@dataclass(frozen=True)
class Listing:
    """The files of a data set, by set; their classes are the names of the folders they are in."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]


@DATASETS.register("folder")
class FolderImages(DataSpec):
    """`folder` holds train/CLASS and val/CLASS (or test/CLASS), or CLASS alone, of which a share becomes the test set.

    All images are decoded once, made `size` pixels along their shorter side and cut to the middle square.
    """

    name: Literal["folder"] = "folder"
    padding: int = 4
    flip: bool = True
    size: int = Field(64, ge=8, le=1024, description="Pixels a side to which images are brought.")
    channels: Channels = Field("colour", description="What images are converted to.")
    test_share: float = Field(
        0.2, gt=0, lt=1, description="Share of each class that is the test set, where there is no folder of one."
    )
    split_seed: int = Field(0, ge=0, description="Seed of that split; it does not depend on the run's seed.")
    mean: tuple[Level, ...] | None = Field(
        None, description="Mean of each channel, of full brightness 1; computed from the training images if not given."
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="Standard deviation of each channel, likewise."
    )
    skip_damaged: bool = Field(False, description="Leave out images that cannot be read, and say how many.")

    @field_validator("folder")
    @classmethod
    def _make_absolute(cls, folder: str | None) -> str | None:
        """A run is resumed and evaluated from other places too."""
        return None if folder is None else str(Path(folder).expanduser().resolve())

    @property
    def shape(self) -> Shape:
        """What its folders hold."""
        found = self._listing()
        channels = 1 if self.channels == "grey" else 3
        return Shape(len(found.train), len(found.test), len(found.classes), channels, self.size, self.size)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets, decoded by all processors.

        Raises:
            UsageError: The folder has no images in folders of classes, or one is damaged and is not to be skipped.
        """
        found = self._listing()
        (train, train_labels, train_damaged), (test, test_labels, test_damaged) = (
            self._read(part) for part in (found.train, found.test)
        )
        mean, std = self._normalisation(train)
        damaged = [*train_damaged, *test_damaged]
        if damaged:
            if not self.skip_damaged:
                raise UsageError(
                    f"{_count(damaged, 'image')} of {self.folder} cannot be read: {_few(damaged)}.",
                    "Replace or remove what is damaged, or leave it out with --set data.skip_damaged=true.",
                )
            if not len(train_labels) or not len(test_labels):
                raise UsageError(f"No image of {self.folder} can be read.", "Look at the files.")

        def part(images: Tensor, labels: Tensor) -> ImageSet:
            return ImageSet(images, labels, found.classes, mean, std)

        notes = (f"left out {_count(damaged, 'damaged image')}: {_few(damaged)}",) if damaged else ()
        return Splits(part(train, train_labels), part(test, test_labels), notes)

    def fetch(self, downloads: Path, **_: object) -> str:
        """Nothing to do."""
        return "is a folder of yours, nothing to fetch"

    def _listing(self) -> Listing:
        if self.folder is None:
            raise UsageError("The data set folder needs a folder.", "Write it as --dataset folder:PATH.")
        return list_images(Path(self.folder).expanduser().resolve(), self.test_share, self.split_seed)

    def _read(self, files: Sequence[tuple[Path, int]]) -> tuple[Tensor, Tensor, list[Path]]:
        channels = 1 if self.channels == "grey" else 3
        images = torch.empty(len(files), channels, self.size, self.size, dtype=torch.uint8)
        whole = torch.zeros(len(files), dtype=torch.bool)

        def read(number: int) -> None:
            with suppress(DamagedImageError):
                images[number], whole[number] = decode(files[number][0], channels, (self.size, self.size)), True

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(read, range(len(files))))
        labels = torch.tensor([label for _, label in files], dtype=torch.long)
        damaged = [files[number][0] for number in (~whole).nonzero().flatten().tolist()]
        return (images[whole], labels[whole], damaged) if damaged else (images, labels, damaged)

    def _normalisation(self, images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        channels = images.shape[1]
        for given, what in ((self.mean, "mean"), (self.std, "std")):
            if given is not None and len(given) != channels:
                raise UsageError(
                    f"data.{what} has {len(given)} values, and the images have {channels} channels.",
                    "Give one for each channel.",
                )
        counts = torch.zeros(channels, 256, dtype=torch.float64)
        for channel in range(channels):
            for some in images[:, channel].split(256):
                counts[channel] += torch.bincount(some.flatten().int(), minlength=256)
        levels = torch.arange(256, dtype=torch.float64) / 255
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        mean = shares @ levels
        deviation = (shares @ levels.square() - mean.square()).clamp(min=0).sqrt()
        # Images of one colour have no deviation to divide by.
        found = [max(value, 1 / 255) for value in deviation.tolist()]
        return self.mean or tuple(mean.tolist()), self.std or tuple(found)


@lru_cache(maxsize=8)
def list_images(folder: Path, test_share: float, seed: int) -> Listing:
    """The images under a folder.

    Raises:
        UsageError: The folder is not there, or holds no folders of images.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.", "Write it as --dataset folder:PATH.")
    train = folder / "train"
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    root = train if train.is_dir() else folder
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if root is folder and test is not None:
        raise UsageError(f"{folder} has the folder {test.name} and none named train.", "Add train/CLASS/IMAGES.")
    by_class = {path.name: _images(path) for path in inner}
    empty = [name for name, files in by_class.items() if not files]
    if len(by_class) < 2 or empty:
        what = f"no images in {', '.join(empty[:_SHOWN])}" if empty else f"{_count(by_class, 'folder')} of classes"
        raise UsageError(
            f"{root} has {what}.", f"Put each class's images ({' '.join(SUFFIXES)}) into a folder of its name."
        )
    classes = tuple(by_class)
    numbered = {name: number for number, name in enumerate(classes)}
    if root is train and test is not None:
        unknown = [p.name for p in sorted(test.iterdir()) if p.is_dir() and p.name not in numbered and _images(p)]
        if unknown:
            raise UsageError(f"{test} has classes that {train} has not: {', '.join(unknown[:_SHOWN])}.", "Add them.")
        tested = [(f, numbered[name]) for name in classes if (test / name).is_dir() for f in _images(test / name)]
        if not tested:
            raise UsageError(f"{test} has no images in folders of classes.", "Add some, or remove it.")
        trained = [(f, numbered[name]) for name, files in by_class.items() for f in files]
        return Listing(classes, tuple(trained), tuple(tested))
    return _split(classes, by_class, test_share, seed)


def _split(classes: tuple[str, ...], by_class: dict[str, list[Path]], test_share: float, seed: int) -> Listing:
    """A share of each class for testing, at least one image, and as much for training."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for number, name in enumerate(classes):
        files = by_class[name]
        if len(files) < 2:
            raise UsageError(f"The class {name} has a single image, and two sets need one.", "Add images to it.")
        # Each class has a draw of its own: a class more leaves the others' as they were.
        order = torch.randperm(len(files), generator=generator(torch.device("cpu"), seed, "split", name)).tolist()
        count = min(len(files) - 1, max(1, round(test_share * len(files))))
        test += [(files[i], number) for i in sorted(order[:count])]
        train += [(files[i], number) for i in sorted(order[count:])]
    return Listing(classes, tuple(train), tuple(test))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def _few(paths: Iterable[Path]) -> str:
    shown = [str(path) for path in paths]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _count(what: Sized, noun: str) -> str:
    return f"{len(what):,} {noun}{'' if len(what) == 1 else 's'}"
