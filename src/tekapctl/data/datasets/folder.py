"""Your own images: a folder with one subfolder per class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from tekapctl.data.files.listing import Listing, list_images, without_empty_classes
from tekapctl.data.image_files import ImageFilesSpec
from tekapctl.data.spec import DATASETS
from tekapctl.errors import UsageError


class ClassFolders(ImageFilesSpec):
    """A folder that holds train/CLASS and val/CLASS (or test/CLASS), or CLASS alone, which is then split."""

    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Fraction of the images in the test set if there is no test folder. A hash of the file name "
        "decides, so adding images does not move the others. Default: the teacher's, or 0.2.",
    )
    split_seed: int | None = Field(
        None, ge=0, description="Seed of that split, independent of the run's seed. Default: the teacher's, or 0."
    )
    from_teacher: ClassVar[Mapping[str, Any]] = {**ImageFilesSpec.from_teacher, "test_fraction": 0.2, "split_seed": 0}
    needs_location: ClassVar[bool] = True

    def listing_of(self, folder: Path) -> Listing:
        """The image files of a folder, split if necessary."""
        return without_empty_classes(self.found_in(folder), folder)

    def found_in(self, folder: Path) -> Listing:
        """The same, also where class folders are empty."""
        return list_images(folder.resolve(), self.setting("test_fraction"), self.setting("split_seed"))


@DATASETS.register("folder")
class FolderImages(ClassFolders):
    """The images of a local folder."""

    name: Literal["folder"] = "folder"
    field_after_colon: ClassVar[str | None] = "folder"

    def listing(self, downloads: Path) -> Listing:
        return self.listing_of(self._place)

    def listing_to_check(self, downloads: Path) -> Listing:
        """The files of the folder, also where class folders are empty."""
        return self.found_in(self._place)

    @property
    def _place(self) -> Path:
        if self.absolute_folder is None:
            raise UsageError("The dataset folder needs a folder.", "Write it as `data=folder:PATH`.")
        return Path(self.absolute_folder)

    def fetch(self, downloads: Path, **_: Any) -> str:
        return "is a folder of yours, nothing to fetch"
