"""Data sets of the Hugging Face hub, brought into a folder of images once and used as any such folder is.

So they stream and are checked as all others, and runs on them are resumed to the bit; the hub's own streams would be
shuffled by a state of their own.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tekapctl.data.fetching import fetch_whole
from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.data.files.folders import count, few, images_under
from tekapctl.data.spec import FROM_THE_HUB
from tekapctl.errors import TekapctlError, UsageError, require
from tekapctl.store.download import local_path

_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<config>[\w.-]+))?(?::(?P<label>[\w.-]+))?")
_TESTED = ("test", "validation", "valid", "val", "dev")
_LABELS = ("label", "labels", "class", "category", "target", "cls")
"""Names under which sets keep classes as plain numbers or words; `cls` is WebDataset's."""


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub.

    Attributes:
        repo: Its repository, `NAME` or `ORGANISATION/NAME`.
        config: Its configuration; the default one if None.
        label: The column that holds the classes; the only one that can if None.
    """

    repo: str
    config: str | None = None
    label: str | None = None

    @classmethod
    def parse(cls, reference: str) -> "HubSet":
        """The data set that `hf:REPOSITORY[@CONFIG][:LABEL]` means.

        Raises:
            UsageError: It is written otherwise.
        """
        found = _REFERENCE.fullmatch(reference)
        if found is None or ".." in reference:
            raise UsageError(
                f"{reference!r} names no data set of the hub.",
                "Write hf:ORGANISATION/NAME, with @CONFIG behind it if there are several, and :COLUMN of the classes.",
            )
        return cls(**found.groupdict())

    @property
    def reference(self) -> str:
        """How it is written."""
        config, label = (f"{sign}{name}" if name else "" for sign, name in (("@", self.config), (":", self.label)))
        return f"{FROM_THE_HUB}{self.repo}{config}{label}"

    def folder(self, downloads: Path) -> Path:
        """Where it is once it was fetched."""
        parts = ("hf", self.repo.replace("/", "--"), self.config and f"@{self.config}", self.label and f"+{self.label}")
        return downloads / "--".join(part for part in parts if part)

    def fetched(self, downloads: Path) -> Path:
        """Its folder.

        Raises:
            UsageError: It was not fetched.
        """
        folder = self.folder(downloads)
        if not folder.is_dir():
            raise UsageError(
                f"The data set {self.reference} is not here yet.", f"Get it with `tekapctl fetch {self.reference}`."
            )
        return folder

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None) -> str:
        """Bring its images into a folder, as they are: train/CLASS, and test/CLASS where it has a labelled test set.

        Args:
            downloads: Where data sets are.
            force: Although it is there.
            source: A folder in any layout that the library `datasets` reads (Parquet, Arrow, WebDataset) to take it
                from; the hub if None.

        Raises:
            UsageError: It has no images with classes, or the library is not installed.
            TekapctlError: It could not be had.
        """
        folder = self.folder(downloads)

        def fill(new: Path, _: Path) -> None:
            self._write(self._load(source), new)

        return fetch_whole(folder, fill, _described, anew=force or source is not None)

    def _load(self, source: str | None) -> Any:
        place = self.repo if source is None else str(self._local(source))
        datasets = require("hf", "datasets")
        try:
            return datasets.load_dataset(place, self.config)
        except UsageError:
            raise
        except Exception as error:  # what it reads from afar may raise anything
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise TekapctlError(
                f"{self.reference} could not be had: {why.rstrip('.')}.",
                "Look at its name, its @CONFIG and the network, or name a folder of its files with --from.",
            ) from None

    def _local(self, source: str) -> Path:
        """The folder that the user named: the library would take anything else for a name on the hub."""
        path = local_path(source)
        if path is None or not path.is_dir():
            raise UsageError(
                f"{self.reference} could not be had: there is no folder {source!r}.",
                "Name a folder of its files with --from, or leave that out to ask the hub.",
            )
        return path.resolve()

    def _write(self, found: Any, new: Path) -> None:
        if "train" not in found:
            raise UsageError(f"{self.reference} has no set named train, but {few(found)}.", "Use another data set.")
        features = found["train"].features
        image, label = self._image_column(features), self._label_column(features)
        classes = _Classes()
        if not _copy(found["train"], image, label, classes, new / "train"):
            raise UsageError(f"{self.reference} has no images with a class in {label}.", "Name another column.")
        for name in _TESTED:
            # Published test sets may come without classes.
            has_labels = name in found and label in found[name].features
            if has_labels and _copy(found[name], image, label, classes, new / "test"):
                return

    def _image_column(self, features: Any) -> str:
        images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
        if len(images) > 1:
            images = [name for name in images if name in ("image", "img")]
        if len(images) != 1:
            raise UsageError(f"{self.reference} has no column of images, but {few(features)}.", "Use another data set.")
        return images[0]

    def _label_column(self, features: Any) -> str:
        if self.label is not None:
            if self.label not in features:
                raise UsageError(f"{self.reference} has no column {self.label!r}.", f"It has {', '.join(features)}.")
            return self.label
        labels = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
        labels = labels or [name for name in features if name in _LABELS]
        if len(labels) != 1:
            what = (
                f"several columns of classes: {', '.join(labels)}"
                if labels
                else "no column of classes that is known as one"
            )
            raise UsageError(
                f"{self.reference} has {what}.",
                f"Name one of {', '.join(labels or features)} behind a colon: {self.reference}:COLUMN.",
            )
        return labels[0]


def _described(folder: Path) -> str:
    """How many images a fetched set has, for the user; it must be a folder of classes."""
    found = images_under(folder)
    names = [path.relative_to(folder).parts for path in found]
    classes = {parts[1] for parts in names if parts[0] == "train" and len(parts) > 2}
    if len(classes) < 2:
        raise UsageError(f"{folder / 'train'} has {count(classes, 'folder')} of classes.", "Use another data set.")
    return count(found, "image")


class _Classes:
    """The folders of classes."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def folder(self, name: str) -> str:
        """A class's name as a folder may be called."""
        folder = re.sub(r'[/\\:*?"<>|\0]', "_", name).strip(". ") or "_"
        owner = self._owners.setdefault(folder.casefold(), name)
        if owner != name:
            raise UsageError(f"The classes {owner!r} and {name!r} need one folder.", "Rename one of them.")
        return folder


def _copy(rows: Any, image: str, label: str, classes: _Classes, folder: Path) -> int:
    """Write the images that have a class into folders of their classes; returns how many."""
    names = getattr(rows.features[label], "names", None)
    written = 0
    for number, (content, given, value) in enumerate(_contents(rows, image, label)):
        if value is None or (names and not 0 <= value < len(names)):
            continue
        place = folder / classes.folder(names[value] if names else str(value))
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:07d}{_suffix(content, given)}").write_bytes(content)
        written += 1
    return written


def _contents(rows: Any, image: str, label: str) -> Iterator[tuple[bytes, str, Any]]:
    kind = type(rows.features[image])
    for row in rows.select_columns([image, label]).cast_column(image, kind(decode=False)):
        stored = row[image] or {}
        given, content = stored.get("path") or "", stored.get("bytes")
        if content is None and Path(given).is_file():
            content = Path(given).read_bytes()
        yield content or b"", given, row[label]


def _suffix(content: bytes, given: str) -> str:
    """The suffix of an image's format; a damaged one keeps what it has, and is found out when it is read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            found = f".{str(opened.format).lower()}"
    except OSError:
        found = Path(given).suffix.lower()
    return found if found in SUFFIXES else ".jpg"
