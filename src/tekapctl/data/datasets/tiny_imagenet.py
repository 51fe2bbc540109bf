"""Tiny ImageNet: 110,000 colour images of 64x64 pixels in 200 classes (Le and Yang, Stanford CS 231N, 2015)."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from tekapctl.data.fetching import PublishedFile
from tekapctl.data.files.listing import Listing, few, images_under
from tekapctl.data.image_files import ImageFilesSpec
from tekapctl.data.in_memory import find_folder
from tekapctl.data.spec import DATASETS, Shape
from tekapctl.errors import UsageError
from tekapctl.store.archive import unpack_zip
from tekapctl.store.download import Downloaded

ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
INNER = "tiny-imagenet-200"
MAX_BYTES = 2**30
_MAX_TEXT = 64 * 2**20


@DATASETS.register("tiny-imagenet")
class TinyImageNet(ImageFilesSpec):
    """In the published layout: train/WNID/images, and val/images with classes in val/val_annotations.txt.

    The published test images have no labels, so val is the test set, as usual.
    """

    name: Literal["tiny-imagenet"] = "tiny-imagenet"
    field_after_colon: ClassVar[str | None] = "folder"
    hub_id: ClassVar[str | None] = "zh-plus/tiny-imagenet"
    address: ClassVar[str] = ADDRESS

    def shape(self, downloads: Path) -> Shape:
        return Shape(100_000, 10_000, 200, self.image_channels, self.image_size, self.image_size)

    def listing(self, downloads: Path) -> Listing:
        """The files; classes are sorted by WordNet id and named by words.txt."""
        folder = find_folder(self, downloads, ["wnids.txt"], INNER)
        try:
            ids = sorted(" ".join(_lines(folder / "wnids.txt")).split())
            annotations = _lines(folder / "val" / "val_annotations.txt")
            numbers = {wnid: number for number, wnid in enumerate(ids)}
            train = [(p, numbers[i]) for i in ids for p in images_under(folder / "train" / i)]
            fields = [line.split("\t") for line in annotations if line.strip()]
            test = [(folder / "val" / "images" / name, numbers[wnid]) for name, wnid, *_ in fields]
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"The files in {folder} are damaged: {error}.", "Fetch them again with `force`.") from None
        if not train or not test:
            raise UsageError(f"The folder {folder} has no images in train and val.", "Fetch them again with `force`.")
        return Listing(_names(folder, ids), tuple(train), tuple(sorted(test)))

    def published_files(self) -> Sequence[PublishedFile]:
        """The archive, which has no published checksum."""
        return [PublishedFile(f"{INNER}.zip", [self.address], MAX_BYTES)]

    def unpack(self, file: Downloaded, folder: Path, name: str) -> None:
        unpack_zip(file.path, folder, inside=INNER)

    def check(self, folder: Path) -> str:
        """Count the images; unpacking has checked their checksums, so they are not decoded."""
        found = self.model_copy(update={"folder": str(folder)}).listing(folder.parent)
        missing = [path for path, _ in found.test if not path.is_file()]
        if missing:
            raise UsageError(f"{folder} is damaged: it has no {few(missing)}.", "Fetch it again with `force`.")
        return f"{len(found.train) + len(found.test):,} images"


def _lines(path: Path) -> list[str]:
    """The lines of a text file of bounded size."""
    if not path.is_file() or path.stat().st_size > _MAX_TEXT:
        raise ValueError(f"{path.name} is missing, or too large")
    return path.read_text(encoding="utf-8").splitlines()


def _names(folder: Path, ids: list[str]) -> tuple[str, ...]:
    """The first word of each class, with its WordNet id if that is ambiguous; the id alone if it is unknown."""
    try:
        lines = _lines(folder / "words.txt")
    except (OSError, ValueError):
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    return tuple(name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, ids, strict=True))
