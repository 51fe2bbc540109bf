"""What data sets of image files have in common: decoded once into memory, or streamed from the files."""

import json
import os
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.data.spec import DataSpec, Shape
from tekapctl.distributed.communicator import processors
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_write, make_folder
from tekapctl.store.download import Report, silent
from tekapctl.store.home import expand_user

MOST_IN_MEMORY = 2 * 2**30
"""Bytes of decoded images beyond which they are streamed."""
_TESTED_MIDDLE = 7 / 8
_SHOWN = 3
_MOST_WORKERS = 16

Level = Annotated[float, Field(gt=0, lt=1)]
Deviation = Annotated[float, Field(gt=0)]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Listing:
    """The files of a data set with their class numbers, by set, and the names of the classes."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...]
    notes: tuple[str, ...] = ()
    """What the user should know of them."""
    split: str = "its own test set"
    """How the two sets were told apart."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the files' names below their common folder, their sizes and their classes.

        Moving or copying the folder as a whole leaves it as it is, as does another split; no pixel is read.
        """
        files = sorted((os.fsencode(path), label) for path, label in (*self.train, *self.test))
        common = os.path.commonpath([os.path.dirname(path) for path, _ in files])  # noqa: PTH120 - bytes
        digest = sha256(json.dumps(self.classes).encode())
        for path, label in files:
            name = path[len(common) :]
            digest.update(b"%s\0%d\0%d\n" % (name, label, os.stat(path).st_size))  # noqa: PTH116
        return digest.hexdigest()


class FileImages(DataSpec):
    """Images in files, brought to one size; each source of them has a subclass in its own file."""

    padding: int = Field(
        4, ge=0, le=64, description="Black pixels at each side before random cropping; 0 does not crop."
    )
    flip: bool = True
    size: int | None = Field(
        None, ge=8, le=1024, description="Height and width in pixels to which images are resized: the teacher's, or 64."
    )
    channels: Literal["grey", "colour"] | None = Field(
        None, description="What images are converted to: the teacher's, or colour."
    )
    augmentation: Literal["crop-flip", "resized-crop"] = Field(
        "crop-flip",
        description="crop-flip: the middle square, padded, cropped and flipped. resized-crop, ImageNet's recipe: "
        "another random part of 8 to 100 % of the area in each epoch, flipped; the middle 7/8 in tests. It streams.",
    )
    mean: tuple[Level, ...] | None = Field(
        None, description="Mean of each channel, of full brightness 1; computed from the training images if not given."
    )
    std: tuple[Deviation, ...] | None = Field(None, description="Standard deviation of each channel, likewise.")
    skip_damaged: bool = Field(False, description="Leave out images that cannot be read, and say how many.")
    stream: bool | None = Field(
        None,
        description="Decode images when they are needed, not all at the start; large sets do unless told.",
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="Processes that decode while training streams; one a processor if not given."
    )
    agrees: ClassVar[Mapping[str, Any]] = {"size": 64, "channels": "colour"}
    """Fields that a student takes from its teacher's data set unless they are given, with their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _no_padding_with_random_parts(cls, values: Any) -> Any:
        if isinstance(values, dict):
            field = cls.model_fields["augmentation"]
            if values.get("augmentation", field.default) == "resized-crop":
                if values.get("padding", 0) != 0:
                    raise ValueError("resized-crop crops without padding; leave data.padding out")
                return {**values, "padding": 0}
        return values

    @field_validator("folder")
    @classmethod
    def _make_absolute(cls, folder: str | None) -> str | None:
        """A run is resumed and evaluated from other places too."""
        if folder is None:
            return None
        try:
            return str(expand_user(folder).resolve())
        except UsageError as error:
            raise ValueError(error.problem) from None

    def stamped(self, downloads: Path) -> "FileImages":
        """The same settings with the fingerprint of the files that are there now."""
        found = self.listing(downloads)
        if self.fingerprint not in (None, found.fingerprint):
            raise UsageError(
                f"The images of {self.described} are no longer those that the spec was made for: there are now "
                f"{len(found.train):,} training and {len(found.test):,} test images of "
                f"{count(found.classes, 'class')}.",
                "Put the folder back as it was, or train a new run on what is there.",
            )
        return self.model_copy(update={"fingerprint": found.fingerprint})

    def pinned(self, downloads: Path) -> "FileImages":
        """The same settings with their fingerprint, and with the defaults of what no teacher decided."""
        return self.stamped(downloads).model_copy(update=self.shared)

    @property
    def shared(self) -> dict[str, Any]:
        """Image size, channels and split."""
        return {name: self.setting(name) for name in self.agrees}

    def has_test_images_of(self, other: DataSpec) -> bool:
        """Whether both mean the same images, split alike."""
        if not isinstance(other, FileImages) or not self.is_same_as(other):
            return False
        return all(self.shared.get(name) == other.shared.get(name) for name in ("test_share", "split_seed"))

    def setting(self, name: str) -> Any:
        """The value of a field of `agrees`, or its default."""
        given = getattr(self, name)
        return self.agrees[name] if given is None else given

    @property
    def side(self) -> int:
        """Height and width of its images in pixels."""
        return int(self.setting("size"))

    def like(self, other: DataSpec) -> "FileImages":
        """The same settings, with the teacher's image size, channels and split unless they were given."""
        if not isinstance(other, type(self)):
            return self
        taken = other.shared
        for name, value in taken.items():
            given = getattr(self, name)
            if given not in (None, value):
                raise UsageError(
                    f"data.{name} is {given}, and the teacher was trained with {value}.",
                    f"Leave out data.{name} to take the teacher's, or train a teacher with {given}.",
                )
        return self.model_copy(update=taken)

    @property
    def described(self) -> str:
        """Where its images are, for messages."""
        return f"folder {self.folder}" if self.folder else self.name

    @property
    def recrop(self) -> bool:
        """Whether it is resized-crop."""
        return self.augmentation == "resized-crop"

    def shape(self, downloads: Path) -> Shape:
        """What its folders hold."""
        found = self.listing(downloads)
        return Shape(len(found.train), len(found.test), len(found.classes), self._channels, self.side, self.side)

    @property
    def _channels(self) -> int:
        return 1 if self.setting("channels") == "grey" else 3

    @abstractmethod
    def listing(self, downloads: Path) -> Listing:
        """The files.

        Args:
            downloads: Where fetched data sets are.

        Raises:
            UsageError: There are none.
        """

    def streams(self, downloads: Path) -> bool:
        """Whether images stay in their files until they are asked for."""
        shape = self.shape(downloads)
        return self._is_streamed((shape.train_images + shape.test_images) * self._channels * self.side**2)

    def _is_streamed(self, bytes_in_all: int) -> bool:
        return self.recrop or (bytes_in_all > MOST_IN_MEMORY if self.stream is None else self.stream)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Both sets, decoded now or to be streamed.

        Raises:
            UsageError: There are no images, or one is damaged and is not to be skipped.
        """
        found = self.listing(downloads)
        for given, what in ((self.mean, "mean"), (self.std, "std")):
            if given is not None and len(given) != self._channels:
                raise UsageError(
                    f"data.{what} has {len(given)} values, and the images have {self._channels} channels.",
                    "Give one for each channel.",
                )
        bytes_in_all = (len(found.train) + len(found.test)) * self._channels * self.side**2
        if self.stream is False and self.recrop:
            raise UsageError("Random parts of images are taken of their files.", "Leave out data.stream=false.")
        if self._is_streamed(bytes_in_all):
            return self._stream(found, downloads)
        return self._decode(found)

    def _files(self, part: Sequence[tuple[Path, int]]) -> ImageFiles:
        workers = min(_MOST_WORKERS, processors()) if self.workers is None else self.workers
        return ImageFiles(
            tuple(str(path) for path, _ in part),
            self._channels,
            (self.side, self.side),
            middle=_TESTED_MIDDLE if self.recrop else 1.0,
            workers=workers,
        )

    def _decode(self, found: Listing) -> Splits:
        """All images in memory."""
        sets, damaged = [], []
        for part in (found.train, found.test):
            files = self._files(part)
            images = torch.empty(files.shape, dtype=torch.uint8)
            done = 0
            for pixels, lost in files.every():
                images[done : done + len(pixels)] = pixels
                done += len(pixels)
                damaged += [path for path, _ in lost]
            sets.append(_without(images, part, damaged))
        self._check_damaged(damaged, sets)
        levels = torch.zeros(self._channels, 256, dtype=torch.float64)
        kept = sets[0][0]
        assert isinstance(kept, Tensor)
        for some in kept.split(256):
            levels += count_levels(some)
        return self._splits(sets, normalisation(levels), damaged, found)

    def _stream(self, found: Listing, downloads: Path) -> Splits:
        """Files, looked at once if anything of them has to be known beforehand."""
        damaged: list[str] = []
        computed: Normalisation = ((), ())
        if self.mean is None or self.std is None or self.skip_damaged:
            computed, damaged = self._scan(found, downloads)
        sets = [_without(self._files(part), part, damaged) for part in (found.train, found.test)]
        self._check_damaged(damaged, sets)
        return self._splits(sets, computed, damaged, found)

    def _scan(self, found: Listing, downloads: Path) -> tuple[Normalisation, list[str]]:
        """Mean, deviation and damaged files of what is streamed; kept, so that it is looked for once."""
        train, test = self._files(found.train), self._files(found.test)
        key = sha256(train.identify() + test.identify()).hexdigest()[:32]
        kept = downloads / ".scans" / f"{key}.json"
        try:
            table = json.loads(kept.read_text(encoding="utf-8"))
            mean, std = (tuple(float(value) for value in table[name]) for name in ("mean", "std"))
            if len(mean) == len(std) == self._channels:
                return (mean, std), [str(path) for path in table["damaged"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        levels, damaged = torch.zeros(self._channels, 256, dtype=torch.float64), []
        for files in (train, test):
            for pixels, lost in files.every():
                damaged += [path for path, _ in lost]
                if files is train:
                    levels += count_levels(pixels)
                    # Those that could not be read came as black.
                    levels[:, 0] -= len(lost) * self.side**2
        (mean, std) = normalisation(levels)
        make_folder(kept.parent)
        atomic_write(kept, json.dumps({"mean": mean, "std": std, "damaged": damaged}).encode())
        return (mean, std), damaged

    def _check_damaged(self, damaged: Sequence[str], sets: Sequence[tuple[Sized, Tensor]]) -> None:
        if not damaged:
            return
        if not self.skip_damaged:
            raise UsageError(
                f"{count(damaged, 'image')} of {self.described} cannot be read: {few(damaged)}.",
                "Replace or remove what is damaged, or leave it out with --set data.skip_damaged=true.",
            )
        if not all(len(labels) for _, labels in sets):
            raise UsageError(f"No image of {self.described} can be read.", "Look at the files.")

    def _splits(
        self,
        sets: Sequence[tuple[Any, Tensor]],
        found: Normalisation,
        damaged: Sequence[str],
        listing: Listing,
    ) -> Splits:
        train, test = (
            ImageSet(images, labels, listing.classes, self.mean or found[0], self.std or found[1])
            for images, labels in sets
        )
        left_out = (f"left out {count(damaged, 'damaged image')}: {few(damaged)}",) if damaged else ()
        return Splits(train, test, (*listing.notes, *left_out), listing.split)

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Nothing to do."""
        return "is a folder of yours, nothing to fetch"


def _without(
    images: Any, part: Sequence[tuple[Path, int]], damaged: Iterable[str]
) -> tuple[Tensor | ImageFiles, Tensor]:
    """Images and labels without the damaged ones."""
    labels = torch.tensor([label for _, label in part], dtype=torch.long)
    lost = set(damaged)
    if not lost:
        return images, labels
    kept = torch.tensor([place for place, (path, _) in enumerate(part) if str(path) not in lost], dtype=torch.long)
    return images[kept], labels[kept]


def count_levels(images: Tensor) -> Tensor:
    """How often each channel of some images has each of the 256 levels."""
    channels = images.shape[1]
    return torch.stack([torch.bincount(images[:, c].flatten().int(), minlength=256) for c in range(channels)]).double()


def normalisation(counts: Tensor) -> Normalisation:
    """Mean and standard deviation of each channel, of full brightness 1, from how often it has each level."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    mean = shares @ levels
    deviation = (shares @ levels.square() - mean.square()).clamp(min=0).sqrt()
    # Images of one colour have no deviation to divide by.
    return tuple(mean.tolist()), tuple(max(value, 1 / 255) for value in deviation.tolist())


def images_under(folder: Path) -> list[Path]:
    """All image files in a folder and those below it, in order."""
    found = []
    try:
        for place, _, names in os.walk(folder):
            found += [Path(place, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    except OSError as error:
        raise TekapctlError(f"The folder {folder} cannot be read: {error.strerror}.", "Look at its rights.") from None
    return sorted(found)


def few(paths: Iterable[object]) -> str:
    """The first of some paths."""
    shown = [str(path) for path in paths]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def count(what: Sized, noun: str) -> str:
    """How many there are, in words."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{len(what):,} {noun}{'' if len(what) == 1 else plural}"
