"""Settings of datasets that consist of image files, and reading these: decoded into memory, or streamed."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tekapctl.data.files import pixels
from tekapctl.data.files.listing import Listing, count, few, unlabelled_files
from tekapctl.data.files.streaming import ImageFiles
from tekapctl.data.image_set import ChannelStatistics, ImageSet, Splits, channel_statistics, histogram
from tekapctl.data.scanning import decode_all, scan
from tekapctl.data.spec import DataSpec, Shape
from tekapctl.distributed.communicator import processors
from tekapctl.errors import UsageError
from tekapctl.store.home import Home

MAX_BYTES_IN_MEMORY = 2 * 2**30
"""Decoded images that take more bytes are streamed."""
_TEST_CENTER_CROP = 7 / 8
_MAX_WORKERS = 16

Mean = Annotated[float, Field(gt=0, lt=1)]
Std = Annotated[float, Field(gt=0)]


class ImageFilesSpec(DataSpec):
    """Images in files, resized to one size; each source of them has a subclass in its own file."""

    padding: int = Field(
        4, ge=0, le=64, description="Black pixels added on each side before random cropping; 0 disables cropping."
    )
    flip: bool = True
    size: int | None = Field(
        None, ge=8, le=1024, description="Image height and width in pixels. Default: the teacher's, or 64."
    )
    test_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="Height and width of validation and test images; images are then streamed. Larger ones help with "
        "resized-crop, which enlarges objects in training (Touvron et al., NeurIPS 2019). Default: the teacher's, or "
        "`size`.",
    )
    channels: Literal["grey", "colour"] | None = Field(
        None, description="Convert images to grey or colour. Default: the teacher's, or colour."
    )
    augmentation: Literal["crop-flip", "resized-crop"] = Field(
        "crop-flip",
        description="crop-flip: center crop, then random crop with padding and flip. resized-crop, ImageNet's recipe: "
        "RandomResizedCrop(scale=(0.08, 1)) and flip, with a center crop of 7/8 in tests; images are streamed.",
    )
    mean: tuple[Mean, ...] | None = Field(
        None, description="Mean of each channel, in [0, 1]. Default: computed from the training images."
    )
    std: tuple[Std, ...] | None = Field(
        None, description="Standard deviation of each channel. Default: computed from the training images."
    )
    skip_damaged: bool = Field(False, description="Leave out images that cannot be read, and report how many.")
    stream: bool | None = Field(
        None, description="Decode images when they are needed instead of all at the start. Default: for large sets."
    )
    cache: bool = Field(
        False,
        description="Store the decoded images on disk, so that later epochs and runs need not decode them again; they "
        "take 1 byte per pixel and channel. Results do not change. Not with resized-crop, which reads the full images.",
    )
    workers: int | None = Field(
        None, ge=0, le=256, description="Processes that decode streamed images. Default: one per CPU core."
    )
    from_teacher: ClassVar[Mapping[str, Any]] = {"size": 64, "test_size": None, "channels": "colour"}
    """Fields that a student takes from its teacher's dataset unless they are set, with their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _no_padding_with_resized_crop(cls, values: Any) -> Any:
        if isinstance(values, dict):
            field = cls.model_fields["augmentation"]
            if values.get("augmentation", field.default) == "resized-crop":
                if values.get("padding", 0) != 0:
                    raise ValueError("resized-crop crops without padding; leave data.padding out")
                return {**values, "padding": 0}
        return values

    @abstractmethod
    def listing(self, downloads: Path) -> Listing:
        """The image files.

        Raises:
            UsageError: There are none.
        """

    def listing_to_check(self, downloads: Path) -> Listing:
        """The image files for a check, which reports what `listing` would refuse.

        Raises:
            UsageError: There are none.
        """
        return self.listing(downloads)

    def with_fingerprint(self, downloads: Path) -> "ImageFilesSpec":
        """The same settings with the fingerprint of the current files."""
        found = self.listing(downloads)
        fingerprint = found.fingerprint
        if self.fingerprint not in (None, fingerprint):
            raise UsageError(
                f"The images of {self.described} have changed since the spec was written: there are now "
                f"{len(found.train):,} training and {len(found.test):,} test images of "
                f"{count(found.classes, 'class')}.",
                "Restore the folder, or train a new run on the current images.",
            )
        update = {"fingerprint": fingerprint, "folder": self.absolute_folder, **self._with_unlabelled()}
        return self.model_copy(update=update)

    def pinned(self, downloads: Path) -> "ImageFilesSpec":
        """The same settings with their fingerprint, and with the defaults of fields that no teacher has set."""
        return self.with_fingerprint(downloads).model_copy(update=self.shared)

    @property
    def shared(self) -> dict[str, Any]:
        """Image sizes, channels and split."""
        return {name: self.setting(name) for name in self.from_teacher}

    @property
    def content(self) -> dict[str, Any]:
        """Nothing: the fingerprint says it all, wherever the folder is."""
        return {}

    def has_test_images_of(self, other: DataSpec) -> bool:
        """Whether both have the same images, split in the same way."""
        if not isinstance(other, ImageFilesSpec) or not self.is_same_as(other):
            return False
        return all(self.shared.get(name) == other.shared.get(name) for name in ("test_fraction", "split_seed"))

    def setting(self, name: str) -> Any:
        """The value of a field in `from_teacher`, or its default."""
        given = getattr(self, name)
        return self.from_teacher[name] if given is None else given

    @property
    def image_size(self) -> int:
        """Height and width of its images in pixels."""
        return int(self.setting("size"))

    @property
    def test_image_size(self) -> int:
        """Height and width of its validation and test images in pixels."""
        return int(self.setting("test_size") or self.image_size)

    @property
    def image_channels(self) -> int:
        """Number of channels of its images."""
        return 1 if self.setting("channels") == "grey" else 3

    def like(self, other: DataSpec) -> "ImageFilesSpec":
        """The same settings, with the teacher's image size, channels and split where they are not set."""
        if not isinstance(other, type(self)):
            return self
        taken = {name: value for name, value in other.shared.items() if value is not None}
        for name, value in taken.items():
            given = getattr(self, name)
            if given not in (None, value):
                raise UsageError(
                    f"data.{name} is {given}, but the teacher was trained with {value}.",
                    f"Leave out data.{name} to use the teacher's, or train a teacher with {given}.",
                )
        return self.model_copy(update=taken)

    @property
    def described(self) -> str:
        """Where its images are, for messages."""
        return f"folder {self.folder}" if self.folder else self.name

    @property
    def random_resized_crop(self) -> bool:
        """Whether training images are cropped as by torchvision's RandomResizedCrop."""
        return self.augmentation == "resized-crop"

    def shape(self, downloads: Path) -> Shape:
        """Counted in its folders."""
        found = self.listing(downloads)
        size = self.image_size
        return Shape(len(found.train), len(found.test), len(found.classes), self.image_channels, size, size)

    def streams(self, downloads: Path) -> bool:
        """Whether images are decoded only when they are needed."""
        shape = self.shape(downloads)
        return self._is_streamed(shape.train_images + shape.test_images)

    def _is_streamed(self, images: int) -> bool:
        images += len(unlabelled_files(self.unlabelled))
        is_large = images * self.image_channels * self.image_size**2 > MAX_BYTES_IN_MEMORY
        must = self.random_resized_crop or self.test_image_size != self.image_size
        return must or (is_large if self.stream is None else self.stream)

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets into memory, or prepare them for streaming."""
        found = self.listing(downloads)
        for given, what in ((self.mean, "mean"), (self.std, "std")):
            if given is not None and len(given) != self.image_channels:
                raise UsageError(
                    f"data.{what} has {len(given)} values, but the images have {self.image_channels} channels.",
                    "Give one value per channel.",
                )
        if self.stream is False and self._is_streamed(0):
            what = "resized-crop" if self.random_resized_crop else "another data.test_size"
            raise UsageError(f"With {what}, images are read from their files.", "Leave out `data.stream=false`.")
        if self.cache and self.random_resized_crop:
            raise UsageError(
                "resized-crop reads the full images, and `data.cache` stores resized ones.", "Leave out `data.cache`."
            )
        parts = (found.train, found.test)
        more = unlabelled_files(self.unlabelled)
        own = {path.resolve() for part in parts for path, _ in part} if more else set()  # either may be links
        if twice := [path for path in more if path.resolve() in own]:
            raise UsageError(
                f"{count(twice, 'unlabelled image')} of {self.unlabelled} are in the dataset too: {few(twice)}.",
                "Name a folder of other images with `data.unlabelled`.",
            )
        sizes = (self.image_size, self.test_image_size)
        files = [self._files(part, size) for part, size in zip(parts, sizes, strict=True)]
        if self.cache:
            where = Home(downloads.parent).images
            files = [
                pixels.stored(each, where, f"{self.described}, {part}")
                for each, part in zip(files, ("training", "test"), strict=True)
            ]
        images: list[Tensor | ImageFiles] = [*files]
        damaged: Collection[str] = ()
        computed: ChannelStatistics = ((), ())
        if not self._is_streamed(sum(map(len, parts))):
            decoded = [decode_all(each) for each in files]
            images = [decoded_images for decoded_images, _ in decoded]
            damaged = [path for _, unreadable in decoded for path in unreadable]
        elif self.mean is None or self.std is None or self.skip_damaged:
            scanned = scan(files[0], files[1], downloads / ".scans")
            computed, damaged = scanned.statistics, scanned.damaged
        sets = [_without(each, part, damaged) for each, part in zip(images, parts, strict=True)]
        self._check_damaged(damaged, sets)
        if isinstance(first := sets[0][0], Tensor):
            computed = channel_statistics(sum((histogram(some) for some in first.split(256)), torch.zeros(1)))
        mean, std = self.mean or computed[0], self.std or computed[1]
        left_out = (f"left out {count(damaged, 'damaged image')}: {few(damaged)}",) if damaged else ()
        both = [ImageSet(images, labels, found.classes, mean, std) for images, labels in sets]
        unread = set(damaged)
        kept = tuple(name for name in files[0].paths if name not in unread)
        return Splits(both[0], both[1], (*found.notes, *left_out), found.split, files=kept)

    def _files(self, part: Sequence[tuple[Path, int]], size: int) -> ImageFiles:
        return ImageFiles(
            tuple(str(path) for path, _ in part),
            self.image_channels,
            (size, size),
            center_crop=_TEST_CENTER_CROP if self.random_resized_crop else 1.0,
            workers=min(_MAX_WORKERS, processors()) if self.workers is None else self.workers,
        )

    def _check_damaged(self, damaged: Collection[str], sets: Sequence[tuple[object, Tensor]]) -> None:
        if not damaged:
            return
        if not self.skip_damaged:
            raise UsageError(
                f"{count(damaged, 'image')} of {self.described} cannot be read: {few(damaged)}.",
                "Replace or remove the damaged files, or use `data.skip_damaged=true` to leave them out.",
            )
        if not all(len(labels) for _, labels in sets):
            raise UsageError(f"No image of {self.described} can be read.", "Check the files.")


def _without(
    images: Tensor | ImageFiles, part: Sequence[tuple[Path, int]], damaged: Collection[str]
) -> tuple[Tensor | ImageFiles, Tensor]:
    """Images and labels without the damaged ones."""
    labels = torch.tensor([label for _, label in part], dtype=torch.long)
    if not damaged:
        return images, labels
    left_out = set(damaged)
    kept = torch.tensor([i for i, (path, _) in enumerate(part) if str(path) not in left_out], dtype=torch.long)
    return images[kept], labels[kept]
