"""What a data set is: its settings, and how its images are had; each is one file beside this one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tekapctl.data.image_set import Splits, long_tail
from tekapctl.errors import UsageError
from tekapctl.registry import Registry
from tekapctl.settings import Settings
from tekapctl.store.download import Report, silent
from tekapctl.store.home import expand_user


@dataclass(frozen=True)
class Shape:
    """What is known of a data set before it is loaded."""

    train_images: int
    test_images: int
    classes: int
    channels: int
    height: int
    width: int


_MOST_PADDING = 64


class DataSpec(Settings, ABC):
    """The settings that all data sets have; each has a subclass in its own file."""

    name: str = Field(description="Name of the data set.")
    folder: str | None = Field(None, min_length=1, max_length=4096, description="A folder that holds its files.")
    train_fraction: float = Field(1.0, gt=0, le=1, description="Share of each class's training images, drawn by seed.")
    imbalance: float = Field(
        1.0,
        ge=1,
        le=1e6,
        description="How many times as many training images the first class keeps as the last one; numbers fall "
        "exponentially between them.",
    )
    padding: int = Field(description="Black pixels at each side before random cropping; 0 does not crop.")
    flip: bool = Field(description="Whether training images are flipped at random.")
    fingerprint: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Of image files: SHA-256 of the names, sizes and classes in both sets. A run fills it in when it "
        "starts, and refuses other files where it is given.",
    )

    @field_validator("padding")
    @classmethod
    def _check_padding(cls, padding: int) -> int:
        # Data sets with a default of their own declare the field anew, which drops its bounds.
        if not 0 <= padding <= _MOST_PADDING:
            raise ValueError(f"padding is from 0 to {_MOST_PADDING}")
        return padding

    @property
    def described(self) -> str:
        """Its name, and where its images are if they are the user's own."""
        return self.name

    @property
    def recrop(self) -> bool:
        """Whether training takes another random part of each image in each epoch."""
        return False

    @property
    def is_subset(self) -> bool:
        """Whether only a part of the training images, drawn by seed, is trained on."""
        return self.train_fraction < 1 or self.imbalance > 1

    def kept(self, downloads: Path) -> float:
        """About the share of the training images that is trained on."""
        shares = long_tail(self.shape(downloads).classes, self.imbalance)
        return self.train_fraction * sum(shares) / len(shares)

    def streams(self, downloads: Path) -> bool:
        """Whether images stay in their files until they are asked for."""
        return False

    def stamped(self, downloads: Path) -> "DataSpec":
        """The same settings with the fingerprint of the images that are there now; a known data set needs none.

        Args:
            downloads: Where data sets are kept.

        Raises:
            UsageError: There are no images, or others than the settings' fingerprint says.
        """
        return self

    def pinned(self, downloads: Path) -> "DataSpec":
        """The same settings with their fingerprint and with the values of all that was left open.

        Args:
            downloads: Where data sets are kept.

        Raises:
            UsageError: There are no images, or others than the settings' fingerprint says.
        """
        return self.stamped(downloads)

    def is_same_as(self, other: "DataSpec") -> bool:
        """Whether both mean the same images, wherever they are and however they are prepared."""
        return (self.name, self.fingerprint) == (other.name, other.fingerprint)

    def has_test_images_of(self, other: "DataSpec") -> bool:
        """Whether both have the same test images, so that accuracies on them may be compared."""
        return self.is_same_as(other)

    @property
    def shared(self) -> dict[str, Any]:
        """The settings that a student has from its teacher, and that files of weights keep."""
        return {}

    def like(self, other: "DataSpec") -> "DataSpec":
        """The same settings, with what has to agree with a teacher's taken from the teacher's, unless it was given.

        Args:
            other: The teacher's settings.

        Raises:
            UsageError: A given value differs from the teacher's.
        """
        return self

    @abstractmethod
    def shape(self, downloads: Path) -> Shape:
        """Its size, for estimates.

        Args:
            downloads: Where data sets are kept.
        """

    @abstractmethod
    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """All its images.

        Args:
            downloads: Where data sets are kept, each in a folder of its name.
            offline: Never touch the network.

        Raises:
            UsageError: Its files are missing or damaged.
        """

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Get its files ready; says in a sentence what came of it."""
        return "comes with the program, nothing to fetch"


DATASETS: Registry[type[DataSpec]] = Registry(
    "data set", "tekapctl.data.datasets", lambda found: isinstance(found, type) and issubclass(found, DataSpec)
)


FROM_THE_HUB = "hf:"
_OF_A_FOLDER = ("folder", "imagenet", "tiny-imagenet")


def data_spec(values: str | Mapping[str, Any]) -> DataSpec:
    """The settings of a data set, from its name or from a table with a `name`.

    Raises:
        UsageError: There is no such data set.
    """
    table = spelled_out(values) if isinstance(values, str) else {**values, **spelled_out(str(values.get("name")))}
    return DATASETS[str(table.get("name"))].model_validate(table)


def spelled_out(name: str) -> dict[str, str]:
    """The fields that a name stands for: `folder:PATH` is the data set folder at PATH, and alike `imagenet:PATH`.

    `hf:NAME` is the folder into which that set of the Hugging Face hub is fetched.
    """
    if name.startswith(FROM_THE_HUB):
        return {"name": "folder", "hub": name}
    kind, colon, path = name.partition(":")
    return {"name": kind, "folder": path} if kind in _OF_A_FOLDER and colon else {"name": name}


def load(
    spec: DataSpec, downloads: Path, *, seed: int, in_channels: int | None = None, offline: bool = False
) -> Splits:
    """A data set as a run sees it: the training set's share drawn by seed, in the channels the networks take."""
    splits = spec.load(downloads, offline=offline)
    train, test = splits.train.subset(spec.train_fraction, seed, spec.imbalance), splits.test
    if in_channels is not None:
        train, test = train.with_channels(in_channels), test.with_channels(in_channels)
    if min(train.image_shape[1:]) < 8:
        raise UsageError(f"The images of {spec.name} are smaller than 8 pixels.", "Use images of 8 pixels or more.")
    return Splits(train, test, splits.notes, splits.split)


def find_folder(
    spec: DataSpec, downloads: Path, names: Sequence[str], inner: str, elsewhere: Sequence[Path] = ()
) -> Path:
    """The folder that holds a data set's files.

    Args:
        spec: The data set; its `folder` is the only place looked at if it is given.
        downloads: Where fetched data sets are.
        names: Names of files, any of which shows that the folder is the right one.
        inner: The subfolder in which the published layout has them.
        elsewhere: Folders of the system to look at last.

    Raises:
        UsageError: There is no such folder.
    """
    if spec.folder is not None:
        given = expand_user(spec.folder)
        if not given.is_dir():
            raise UsageError(
                f"There is no folder {spec.folder!r}.", "Name a folder that holds the data set with --data-dir."
            )
        places = [given, given / inner, given / spec.name]
        problem = f"The folder {spec.folder!r} holds no files of {spec.name}."
    else:
        places = [downloads / spec.name, downloads / spec.name / inner, *elsewhere]
        problem = f"The data set {spec.name} is not here yet."
    for place in places:
        if any((place / name).is_file() for name in names):
            return place
    raise UsageError(problem, f"Get it with `tekapctl fetch {spec.name}`, or name a folder with --data-dir.")


def has_md5(path: Path, expected: str) -> bool:
    """Whether a file has an MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == expected


def check_md5(path: Path, expected: str) -> None:
    """Hold a downloaded file to its published MD5.

    Raises:
        UsageError: It is another file.
    """
    if not has_md5(path, expected):
        raise UsageError(
            f"{path.name} is not the file that was published: its MD5 is not {expected}.",
            "Fetch it again, or name a source with --from.",
        )
