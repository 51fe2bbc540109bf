"""Tiny ImageNet: 110,000 colour images of 64x64 pixels in 200 classes (Le and Yang, Stanford CS 231N, 2015)."""

from pathlib import Path
from typing import ClassVar, Literal

from tekapctl.data.fetching import fetch_whole
from tekapctl.data.files.folders import FileImages, Listing, few, images_under
from tekapctl.data.spec import DATASETS, Shape, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, download, file_in, published, silent
from tekapctl.store.legacy_checkpoint import unpack_zip

ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
INNER = "tiny-imagenet-200"
MOST_BYTES = 2**30
_MOST_TEXT = 64 * 2**20


@DATASETS.register("tiny-imagenet")
class TinyImageNet(FileImages):
    """In its own layout: train/WNID/images, and val/images whose classes are in val/val_annotations.txt.

    Its published test images have no labels; val is the test set, as everywhere.
    """

    name: Literal["tiny-imagenet"] = "tiny-imagenet"
    address: ClassVar[str] = ADDRESS

    def shape(self, downloads: Path) -> Shape:
        """100,000 training images and 10,000 test images."""
        return Shape(100_000, 10_000, 200, self._channels, self.side, self.side)

    def listing(self, downloads: Path) -> Listing:
        """The files, with the classes in the order of wnids.txt's sorted lines, named by words.txt."""
        folder = find_folder(self, downloads, ["wnids.txt"], INNER)
        try:
            ids = sorted(" ".join(_lines(folder / "wnids.txt")).split())
            annotations = _lines(folder / "val" / "val_annotations.txt")
            numbers = {wnid: number for number, wnid in enumerate(ids)}
            train = [(p, numbers[i]) for i in ids for p in images_under(folder / "train" / i)]
            fields = [line.split("\t") for line in annotations if line.strip()]
            test = [(folder / "val" / "images" / name, numbers[wnid]) for name, wnid, *_ in fields]
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"The files in {folder} are damaged: {error}.", "Fetch them anew with --force.") from None
        if not train or not test:
            raise UsageError(f"The folder {folder} has no images in train and val.", "Fetch them anew with --force.")
        return Listing(_names(folder, ids), tuple(train), tuple(sorted(test)))

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the archive and unpack it."""
        name = f"{INNER}.zip"
        sources = [file_in(source, name, ".zip")] if source else published(self.address)

        def fill(folder: Path, parts: Path) -> None:
            with download(sources, parts, name, most_bytes=MOST_BYTES, report=report) as file:
                unpack_zip(file.path, folder, inside=INNER)

        return fetch_whole(downloads / self.name, fill, self._described, anew=force or source is not None)

    def _described(self, folder: Path) -> str:
        """How many images there are; unpacking has held each to its checksum, so they are not read again."""
        found = self.model_copy(update={"folder": str(folder)}).listing(folder.parent)
        lost = [path for path, _ in found.test if not path.is_file()]
        if lost:
            raise UsageError(f"{folder} is damaged: it has no {few(lost)}.", "Fetch it anew with --force.")
        return f"{len(found.train) + len(found.test):,} images"


def _lines(path: Path) -> list[str]:
    """The lines of a text that is no larger than such texts are."""
    if not path.is_file() or path.stat().st_size > _MOST_TEXT:
        raise ValueError(f"{path.name} is missing, or is no text of this data set")
    return path.read_text(encoding="utf-8").splitlines()


def _names(folder: Path, ids: list[str]) -> tuple[str, ...]:
    """The first word for each class; its id where that is unknown or not the only one of its name."""
    try:
        lines = _lines(folder / "words.txt")
    except (OSError, ValueError):
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    return tuple(name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, ids, strict=True))
