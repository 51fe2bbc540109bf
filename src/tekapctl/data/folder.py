"""Images of one's own: a folder with a folder for each class."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from tekapctl.data.files import SUFFIXES, FileImages, Listing, count, images_under
from tekapctl.data.source import DATASETS
from tekapctl.errors import UsageError
from tekapctl.randomness import generator

_TEST_FOLDERS = ("test", "val", "validation", "valid")


@DATASETS.register("folder")
class FolderImages(FileImages):
    """`folder` holds train/CLASS and val/CLASS (or test/CLASS), or CLASS alone, which is split."""

    name: Literal["folder"] = "folder"
    test_share: float = Field(
        0.2, gt=0, lt=1, description="Share of each class that is the test set, where there is no folder of one."
    )
    split_seed: int = Field(0, ge=0, description="Seed of that split; it does not depend on the run's seed.")

    def listing(self, downloads: Path) -> Listing:
        """The files of the folder."""
        if self.folder is None:
            raise UsageError("The data set folder needs a folder.", "Write it as --dataset folder:PATH.")
        return list_images(Path(self.folder).expanduser().resolve(), self.test_share, self.split_seed)


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
    by_class = {path.name: images_under(path) for path in inner}
    empty = [name for name, files in by_class.items() if not files]
    if len(by_class) < 2 or empty:
        what = f"no images in {', '.join(empty[:3])}" if empty else f"{count(by_class, 'folder')} of classes"
        raise UsageError(
            f"{root} has {what}.", f"Put each class's images ({' '.join(SUFFIXES)}) into a folder of its name."
        )
    classes = tuple(by_class)
    numbered = {name: number for number, name in enumerate(classes)}
    if root is train and test is not None:
        unknown = [p.name for p in sorted(test.iterdir()) if p.is_dir() and p.name not in numbered and images_under(p)]
        if unknown:
            raise UsageError(f"{test} has classes that {train} has not: {', '.join(unknown[:3])}.", "Add them.")
        tested = [(f, numbered[name]) for name in classes if (test / name).is_dir() for f in images_under(test / name)]
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
        taken = min(len(files) - 1, max(1, round(test_share * len(files))))
        test += [(files[i], number) for i in sorted(order[:taken])]
        train += [(files[i], number) for i in sorted(order[taken:])]
    return Listing(classes, tuple(train), tuple(test))
