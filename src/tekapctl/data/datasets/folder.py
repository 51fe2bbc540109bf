"""Images of one's own: a folder with a folder for each class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tekapctl.data.datasets.hub import HubSet
from tekapctl.data.files.folders import FileImages, Listing
from tekapctl.data.files.listing import list_images
from tekapctl.data.spec import DATASETS
from tekapctl.errors import UsageError


@DATASETS.register("folder")
class FolderImages(FileImages):
    """`folder` holds train/CLASS and val/CLASS (or test/CLASS), or CLASS alone, which is split."""

    name: Literal["folder"] = "folder"
    hub: str | None = Field(
        None, description="A data set of the Hugging Face hub that was fetched, hf:REPOSITORY, in place of a folder."
    )
    test_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the images in the test set, where there is no folder of one: the teacher's, or 0.2. A "
        "hash of its name decides for each image, so that further images leave it where it is.",
    )
    split_seed: int | None = Field(
        None, ge=0, description="Seed of that split, which the run's seed leaves as it is: the teacher's, or 0."
    )

    agrees: ClassVar[Mapping[str, Any]] = {**FileImages.agrees, "test_share": 0.2, "split_seed": 0}

    @model_validator(mode="after")
    def _check_place(self) -> "FolderImages":
        if self.hub is not None:
            try:
                HubSet.parse(self.hub)
            except UsageError as error:
                raise ValueError(error.problem) from None
            if self.folder is not None:
                raise ValueError("folder and hub both say where the images are: give one")
        return self

    @property
    def described(self) -> str:
        """Where its images are, for messages."""
        return self.hub or super().described

    def listing(self, downloads: Path) -> Listing:
        """The files of the folder."""
        if self.hub is not None:
            folder = HubSet.parse(self.hub).fetched(downloads)
        elif self.folder is not None:
            folder = Path(self.folder)
        else:
            raise UsageError("The data set folder needs a folder.", "Write it as --dataset folder:PATH.")
        return list_images(folder.resolve(), self.setting("test_share"), self.setting("split_seed"))
