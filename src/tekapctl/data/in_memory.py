"""Published datasets that are read into memory: the file of each states its facts and reads its files."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.image_set import ImageSet, Splits, channel_statistics, histogram
from tekapctl.data.spec import DataSpec, Shape
from tekapctl.errors import UsageError
from tekapctl.store.home import expand_user

Part = tuple[Tensor, Tensor]
"""Images of one set, as bytes in N, C, H, W order, and their labels as 64-bit integers."""


class InMemorySpec(DataSpec):
    """A published dataset; a subclass states its facts and implements `read`."""

    published: ClassVar[tuple[PublishedFile, ...]]
    """The files to download."""
    published_shape: ClassVar[Shape]
    """Its size."""
    file_names: ClassVar[tuple[str, ...]]
    """Names of its files; a folder with any of them holds the dataset."""
    inner: ClassVar[str]
    """Folder in the published archive, or in torchvision's, that holds the files."""
    elsewhere: ClassVar[tuple[Path, ...]] = ()
    """System folders to search last."""
    mean: ClassVar[tuple[float, ...]] = ()
    std: ClassVar[tuple[float, ...]] = ()
    """Of each channel, in [0, 1]; computed from the training images if not stated."""

    @abstractmethod
    def read(self, folder: Path) -> tuple[Part, Part, tuple[str, ...]]:
        """Read the training set, the test set and the class names; may raise anything if files are damaged."""

    def shape(self, downloads: Path) -> Shape:
        """Its published size."""
        return self.published_shape

    @property
    def content(self) -> dict[str, Any]:
        """Nothing: published images are the same in every folder."""
        return {}

    def published_files(self) -> Sequence[PublishedFile]:
        """The files to download."""
        return self.published

    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load both sets."""
        folder = find_folder(self, downloads, self.file_names, self.inner, self.elsewhere)
        size = self.published_shape
        with refusing_damage(f"The files in {folder} are"):
            train, test, classes = self.read(folder)
            for images, labels in (train, test):
                if images.shape[1:] != (size.channels, size.height, size.width) or labels.dim() != 1:
                    raise ValueError("they hold no such images with labels")
            mean, std = (self.mean, self.std) if self.mean else channel_statistics(histogram(train[0]))
            return Splits(ImageSet(*train, classes, mean, std), ImageSet(*test, classes, mean, std))


def find_folder(
    spec: DataSpec, downloads: Path, names: Sequence[str], inner: str, elsewhere: Sequence[Path] = ()
) -> Path:
    """Find the folder that holds a dataset's files.

    Args:
        spec: The dataset; if its `folder` is set, only that is searched.
        downloads: Where fetched datasets are.
        names: File names; a folder with any of them is the right one.
        inner: The subfolder of the published archive that holds the files.
        elsewhere: System folders to search last.

    Raises:
        UsageError: There is no such folder.
    """
    if spec.folder is not None:
        given = expand_user(spec.folder)
        if not given.is_dir():
            raise UsageError(f"There is no folder {spec.folder!r}.", "Name a folder that holds the dataset.")
        places = [given, given / inner, given / spec.name]
        problem = f"The folder {spec.folder!r} holds no files of {spec.name}."
    else:
        places = [downloads / spec.name, downloads / spec.name / inner, *elsewhere]
        problem = f"The dataset {spec.name} has not been fetched yet."
    for place in places:
        if any((place / name).is_file() for name in names):
            return place
    raise UsageError(problem, f"Get it with `tekapctl fetch {spec.name}`, or name its folder with `data.folder`.")


@contextmanager
def reading(path: Path, max_bytes: int) -> Iterator[None]:
    """Refuse a file that is missing, too large or damaged.

    Raises:
        UsageError: It is missing or too large, or reading it in the block failed.
    """
    if not path.is_file():
        raise UsageError(f"The file {path.name} is missing in {path.parent}.", "Add it, or fetch the dataset.")
    if path.stat().st_size > max_bytes:
        raise UsageError(f"The file {path} is larger than expected.", "Fetch it again.")
    with refusing_damage(f"The file {path} is"):
        yield


@contextmanager
def refusing_damage(subject: str) -> Iterator[None]:
    """Translate any error but a UsageError: damaged and hostile files can raise anything."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        raise UsageError(f"{subject} damaged: {why}.", "Fetch the dataset again with `force`.") from None
