"""Tiny ImageNet: 110,000 colour images of 64x64 pixels in 200 classes (Le and Yang, Stanford CS 231N, 2015)."""

import zipfile
from pathlib import Path
from typing import ClassVar, Literal

from tekapctl.data.files import FileImages, Listing, images_under
from tekapctl.data.source import DATASETS, Shape, find_folder
from tekapctl.errors import UsageError
from tekapctl.store.download import Report, download, silent
from tekapctl.store.unpacking import unpack_zip

ADDRESS = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
INNER = "tiny-imagenet-200"
MOST_BYTES = 2**30


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
            ids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
            annotations = (folder / "val" / "val_annotations.txt").read_text(encoding="utf-8").splitlines()
            numbers = {wnid: number for number, wnid in enumerate(ids)}
            train = [(p, numbers[i]) for i in ids for p in images_under(folder / "train" / i)]
            fields = [line.split("\t") for line in annotations if line.strip()]
            test = [(folder / "val" / "images" / name, numbers[wnid]) for name, wnid, *_ in fields]
        except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
            raise UsageError(f"The files in {folder} are damaged: {error}.", "Fetch them anew with --force.") from None
        if not train or not test:
            raise UsageError(f"The folder {folder} has no images in train and val.", "Fetch them anew with --force.")
        return Listing(_names(folder, ids), tuple(train), tuple(sorted(test)))

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the archive and unpack it."""
        folder = downloads / self.name
        archive = folder / f"{INNER}.zip"
        if force or source:
            archive.unlink(missing_ok=True)
        address = source or self.address
        if not address.endswith(".zip"):
            address = f"{address.rstrip('/')}/{archive.name}"
        if force or source or not (folder / INNER / "wnids.txt").is_file():
            download([address], archive, most_bytes=MOST_BYTES, report=report)
            try:
                unpack_zip(archive, folder / INNER, inside=INNER)
            except zipfile.BadZipFile as error:
                raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it with --force.") from None
        archive.unlink(missing_ok=True)
        found = self.listing(downloads)
        return f"{len(found.train) + len(found.test):,} images at {folder / INNER}"


def _names(folder: Path, ids: list[str]) -> tuple[str, ...]:
    """The first word for each class; its id where that is unknown or not the only one of its name."""
    try:
        lines = (folder / "words.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return tuple(ids)
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    names = [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
    return tuple(name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, ids, strict=True))
