"""What a data set is: its settings, and how its images are had; each is one file beside this one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from tekapctl.data.image_set import Splits
from tekapctl.errors import UsageError
from tekapctl.registry import Registry
from tekapctl.section import Section


@dataclass(frozen=True)
class Shape:
    """What is known of a data set before it is loaded."""

    train_images: int
    test_images: int
    classes: int
    channels: int
    height: int
    width: int


class DataSpec(Section, ABC):
    """The settings that all data sets have; each has a subclass in its own file."""

    name: str = Field(description="Name of the data set.")
    folder: str | None = Field(None, min_length=1, max_length=4096, description="A folder that holds its files.")
    train_fraction: float = Field(1.0, gt=0, le=1, description="Share of each class's training images, drawn by seed.")
    padding: int = Field(ge=0, le=64, description="Black pixels at each side before random cropping; 0 does not crop.")
    flip: bool = Field(description="Whether training images are flipped at random.")

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """Its size, for estimates."""

    @abstractmethod
    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """All its images.

        Args:
            downloads: Where data sets are kept, each in a folder of its name.
            offline: Never touch the network.

        Raises:
            UsageError: Its files are missing or damaged.
        """

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None) -> str:
        """Get its files ready; says in a sentence what came of it."""
        return "comes with the program, nothing to fetch"


DATASETS: Registry[type[DataSpec]] = Registry("data set", "tekapctl.data")


def data_spec(values: str | Mapping[str, Any]) -> DataSpec:
    """The settings of a data set, from its name or from a table with a `name`.

    Raises:
        UsageError: There is no such data set.
    """
    table = {"name": values} if isinstance(values, str) else dict(values)
    return DATASETS[str(table.get("name"))].model_validate(table)


def load(
    spec: DataSpec, downloads: Path, *, seed: int, in_channels: int | None = None, offline: bool = False
) -> Splits:
    """A data set as a run sees it: the training set's share drawn by seed, in the channels the networks take."""
    splits = spec.load(downloads, offline=offline)
    train, test = splits.train.subset(spec.train_fraction, seed), splits.test
    if in_channels is not None:
        train, test = train.with_channels(in_channels), test.with_channels(in_channels)
    if min(train.image_shape[1:]) < 8:
        raise UsageError(f"The images of {spec.name} are smaller than 8 pixels.", "Use images of 8 pixels or more.")
    return Splits(train, test)
