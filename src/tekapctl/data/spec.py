"""The settings that all datasets have; each dataset has a file in `datasets/`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from tekapctl.data.augment.augmentation import AUGMENTATIONS, AugmentSpec
from tekapctl.data.fetching import FetchedSpec
from tekapctl.data.files.listing import fingerprint_of_unlabelled, unlabelled_files
from tekapctl.data.image_set import Splits, long_tail
from tekapctl.errors import UsageError
from tekapctl.registry import Registry
from tekapctl.settings import chosen_by_name
from tekapctl.store.home import expand_user

AnyAugment = Annotated[SerializeAsAny[AugmentSpec], chosen_by_name(AUGMENTATIONS)]


@dataclass(frozen=True)
class Shape:
    """The size of a dataset, known before it is loaded."""

    train_images: int
    test_images: int
    classes: int
    channels: int
    height: int
    width: int


_MAX_PADDING = 64


class DataSpec(FetchedSpec, ABC):
    """The settings that all datasets have."""

    folder: str | None = Field(None, min_length=1, max_length=4096, description="A folder that holds its files.")
    train_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Fraction of each class's training images, drawn by seed; 0 trains on unlabelled images alone.",
    )
    unlabelled: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="A folder of images without labels that a student is trained on as well: the teacher names their "
        "classes, and the cross-entropy leaves them out.",
    )
    unlabelled_fingerprint: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the names and sizes of the unlabelled images, and of the content of up to 256. A run "
        "fills it in when it starts; if it is given, other files are refused.",
    )
    val_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of each class's training images that is held out: epochs are evaluated on it, and on the "
        "test images only after the last one.",
    )
    imbalance: float = Field(
        1.0,
        ge=1,
        le=1e6,
        description="Ratio of the training images of the first class to those of the last one; the numbers decrease "
        "exponentially in between.",
    )
    padding: int = Field(description="Black pixels added on each side before random cropping; 0 disables cropping.")
    flip: bool = Field(description="Flip training images horizontally at random.")
    augment: tuple[AnyAugment, ...] = Field(
        (),
        max_length=16,
        description="Further augmentations in this order, each a name or a table with a name. If several mix images, "
        "one is drawn for each batch.",
    )
    repeats: int = Field(
        1,
        ge=1,
        le=64,
        description="Copies of an image in a batch, each augmented differently (repeated augmentation). An epoch keeps "
        "its length and shows a random part of the images.",
    )
    fingerprint: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="For image files: SHA-256 of the names, sizes and classes of all files, and of the content of up "
        "to 256. A run fills it in when it starts; if it is given, other files are refused.",
    )
    field_after_colon: ClassVar[str | None] = None
    """The field that a user may write after the name and a colon, as `folder` in `folder:PATH`; None for none."""
    needs_location: ClassVar[bool] = False
    """Whether its name alone does not say where its images are. Such images count as the user's own: pretrained
    networks are fine-tuned on them unless the user chooses otherwise."""
    hub_id: ClassVar[str | None] = None
    """Its repository on the Hugging Face hub, for model cards; None if it is not there."""
    transfers_to: ClassVar[tuple[str, ...]] = ()
    """The datasets on which the study `transfer` probes networks trained on this one; none for the study's own."""

    @field_validator("padding")
    @classmethod
    def _check_padding(cls, padding: int) -> int:
        # Datasets with another default declare the field again, which drops its bounds.
        if not 0 <= padding <= _MAX_PADDING:
            raise ValueError(f"padding must be from 0 to {_MAX_PADDING}")
        return padding

    @model_validator(mode="after")
    def _check_training_images(self) -> "DataSpec":
        if not self.train_fraction and self.unlabelled is None:
            raise ValueError("`data.train_fraction` is 0 and there are no unlabelled images: nothing to train on")
        return self

    @property
    def described(self) -> str:
        """Its name, and the location of the user's own images."""
        return self.name

    @property
    def hub_repository(self) -> str | None:
        """`ORGANISATION/NAME` of the same images on the Hugging Face hub; None if they are not there."""
        return self.hub_id

    @property
    def random_resized_crop(self) -> bool:
        """Whether training images are cropped as by torchvision's RandomResizedCrop."""
        return False

    @property
    def labelled(self) -> "DataSpec":
        """The same settings without unlabelled images, which only the run itself needs."""
        update = {"unlabelled": None, "unlabelled_fingerprint": None, "train_fraction": self.train_fraction or 1.0}
        return self.model_copy(update=update)

    @property
    def repeats_views(self) -> bool:
        """Whether training shows the same few views of an image again and again: crops by padding, and flips."""
        return not (self.augment or self.random_resized_crop)

    @property
    def is_subset(self) -> bool:
        """Whether a run trains on a random subset of the training images."""
        return 0 < self.train_fraction < 1 or self.imbalance > 1

    @property
    def absolute_folder(self) -> str | None:
        """The absolute path of `folder`: a run is resumed and evaluated from other working folders too.

        Raises:
            UsageError: It begins with `~NAME`, and there is no such user.
        """
        return None if self.folder is None else str(expand_user(self.folder).resolve())

    def images_to_train(self, downloads: Path) -> int:
        """The approximate number of images that a run trains on."""
        shape = self.shape(downloads)
        fractions = long_tail(shape.classes, self.imbalance)
        kept = (1 - self.val_fraction) * self.train_fraction * sum(fractions) / len(fractions)
        return round(shape.train_images * kept) + len(unlabelled_files(self.unlabelled))

    def streams(self, downloads: Path) -> bool:
        """Whether images are decoded only when they are needed."""
        return False

    def with_fingerprint(self, downloads: Path) -> "DataSpec":
        """The same settings with the fingerprint of the current images and the absolute path of their folder.

        Raises:
            UsageError: There are no images, or they do not have the fingerprint that is already set.
        """
        return self.model_copy(update={"folder": self.absolute_folder, **self._with_unlabelled()})

    def _with_unlabelled(self) -> dict[str, str]:
        """The absolute folder of the unlabelled images and their fingerprint."""
        if self.unlabelled is None:
            return {}
        found = fingerprint_of_unlabelled(self.unlabelled)
        if self.unlabelled_fingerprint not in (None, found):
            raise UsageError(
                f"The unlabelled images in {self.unlabelled} have changed since the spec was written.",
                "Restore the folder, or start a new run on the current images.",
            )
        return {"unlabelled": str(expand_user(self.unlabelled).resolve()), "unlabelled_fingerprint": found}

    def pinned(self, downloads: Path) -> "DataSpec":
        """As `with_fingerprint`, and with values for everything that was left open."""
        return self.with_fingerprint(downloads)

    @property
    def content(self) -> dict[str, Any]:
        """What identifies its images beside its name and fingerprint: the folder, and all settings of its own."""
        own = ("folder", *(field for field in type(self).model_fields if field not in DataSpec.model_fields))
        return {field: getattr(self, field) for field in own}

    def is_same_as(self, other: "DataSpec") -> bool:
        """Whether both have the same images, wherever these are and however they are preprocessed."""
        ours, theirs = ((each.name, each.fingerprint, each.content) for each in (self, other))
        return ours == theirs

    def has_test_images_of(self, other: "DataSpec") -> bool:
        """Whether both have the same test images, so that accuracies on them can be compared."""
        return self.is_same_as(other)

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that a student takes from its teacher, and that are stored with weights."""
        return {}

    def like(self, other: "DataSpec") -> "DataSpec":
        """The same settings, with those that must agree with a teacher's taken from it where they are not set.

        Raises:
            UsageError: A setting differs from the teacher's.
        """
        return self

    @abstractmethod
    def shape(self, downloads: Path) -> Shape:
        """Its size, for estimates."""


DATASETS: Registry[type[DataSpec]] = Registry(
    "dataset", "tekapctl.data.datasets", lambda found: isinstance(found, type) and issubclass(found, DataSpec)
)


def load(
    spec: DataSpec, downloads: Path, *, seed: int, in_channels: int | None = None, offline: bool = False
) -> Splits:
    """Load a dataset as a run sees it: a subset of the training set drawn by seed, in the network's channels."""
    splits = spec.load(downloads, offline=offline)
    train, test, val = splits.train, splits.test, None
    if spec.val_fraction:
        train, val = train.hold_out(spec.val_fraction, splits.files)
        val = val.in_size_of(test)
    train = train.subset(spec.train_fraction or 1, seed, spec.imbalance)
    if in_channels is not None:
        train, test = train.with_channels(in_channels), test.with_channels(in_channels)
        val = None if val is None else val.with_channels(in_channels)
    if min(train.image_shape[1:]) < 8:
        raise UsageError(f"The images of {spec.name} are smaller than 8 pixels.", "Use images of 8 pixels or more.")
    return Splits(train, test, splits.notes, splits.split, val)
