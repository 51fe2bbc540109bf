"""Datasets of the Hugging Face hub: their images are copied once into class folders and then used like any folder.

So they are streamed and checked like any other image files, and runs on them resume bit for bit; the hub's own
streaming shuffles with a state of its own.
"""

import io
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from PIL import Image
from pydantic import Field, field_validator, model_validator

from tekapctl.data.datasets.folder import ClassFolders, FolderImages
from tekapctl.data.fetching import replace_folder
from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.data.files.listing import Listing, count, few, images_under
from tekapctl.data.spec import DATASETS, DataSpec
from tekapctl.errors import TekapctlError, UsageError, first_line, require
from tekapctl.store.download import local_path
from tekapctl.store.http import Report, silent

_REPOSITORY = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<config>[\w.-]+))?(?::(?P<label>[\w.-]+))?")
_PREFIX = "hf"
"""Of the folders into which datasets are fetched."""
_TESTED = ("test", "validation", "valid", "val", "dev")
_LABELS = ("label", "labels", "class", "category", "target", "cls")
"""Names of columns that hold classes as plain numbers or words; `cls` is WebDataset's."""


@DATASETS.register("hf")
class HubImages(ClassFolders):
    """A dataset of the Hugging Face hub."""

    name: Literal["hf"] = "hf"
    field_after_colon: ClassVar[str | None] = "repository"
    shows_progress: ClassVar[bool] = True
    repository: str | None = Field(
        None,
        max_length=400,
        description="A dataset of the Hugging Face hub: ORGANISATION/NAME, NAME@CONFIG or NAME:COLUMN.",
    )

    @field_validator("repository")
    @classmethod
    def _check_repository(cls, repository: str | None) -> str | None:
        if repository is not None and (".." in repository or not _REPOSITORY.fullmatch(repository)):
            raise ValueError(
                "it names no dataset of the hub; write hf:ORGANISATION/NAME, followed by @CONFIG if it "
                "has several configurations and by :COLUMN if it has several columns of classes"
            )
        return repository

    @model_validator(mode="after")
    def _check_folder(self) -> "HubImages":
        if self.folder is not None:
            raise ValueError("a dataset of the hub has no folder of yours; use folder:PATH instead")
        return self

    @property
    def described(self) -> str:
        return f"hf:{self.repository}"

    @property
    def hub_repository(self) -> str | None:
        return None if self.repository is None else self._parts[0]

    @property
    def _parts(self) -> tuple[str, str | None, str | None]:
        """Repository, configuration and column of the classes."""
        found = _REPOSITORY.fullmatch(self.repository or "")
        if found is None:
            raise UsageError("The dataset hf needs a repository.", "Write it as hf:ORGANISATION/NAME.")
        return found["repo"], found["config"], found["label"]

    def location(self, downloads: Path) -> Path:
        repo, config, label = self._parts
        parts = (_PREFIX, repo.replace("/", "--"), config and f"@{config}", label and f"+{label}")
        return downloads / "--".join(part for part in parts if part)

    @classmethod
    def of_fetched(cls, folder: Path) -> DataSpec | None:
        """Class folders: the repository's name cannot be read from that of the folder."""
        return FolderImages(folder=str(folder)) if folder.name.startswith(f"{_PREFIX}--") else None

    def listing(self, downloads: Path) -> Listing:
        folder = self.location(downloads)
        if not folder.is_dir():
            raise UsageError(
                f"The dataset {self.described} has not been fetched yet.",
                f"Get it with `tekapctl fetch {self.described}`.",
            )
        return self.listing_of(folder)

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Copy its images, unchanged, into train/CLASS, and into test/CLASS if it has a labelled test set.

        `source` may be a folder in any layout that the library `datasets` reads: Parquet, Arrow, WebDataset. The
        library shows its own progress.
        """
        return replace_folder(
            self.location(downloads),
            lambda new, _: self._write(self._load(source), new),
            self.check,
            force=force or source is not None,
        )

    def check(self, folder: Path) -> str:
        """Count the images of a fetched set, which must have two class folders or more."""
        found = images_under(folder)
        names = [path.relative_to(folder).parts for path in found]
        classes = {parts[1] for parts in names if parts[0] == "train" and len(parts) > 2}
        if len(classes) < 2:
            raise UsageError(f"{folder / 'train'} has {count(classes, 'class folder')}.", "Use another dataset.")
        return count(found, "image")

    def _load(self, source: str | None) -> Any:
        repo, config, _ = self._parts
        if source is not None:
            path = local_path(source)
            # The library would look up anything else on the hub.
            if path is None or not path.is_dir():
                raise UsageError(
                    f"{self.described} could not be fetched: there is no folder {source!r}.",
                    "Name a folder of its files as `source`, or leave out `source` to use the hub.",
                )
            repo = str(path.resolve())
        datasets = require("hf", "datasets")
        try:
            return datasets.load_dataset(repo, config)
        except UsageError:
            raise
        except Exception as error:  # reading downloaded files may raise anything
            raise TekapctlError(
                f"{self.described} could not be fetched: {first_line(error)}.",
                "Check its name, its @CONFIG and the network, or name a folder of its files as `source`.",
            ) from None

    def _write(self, found: Any, new: Path) -> None:
        if "train" not in found:
            raise UsageError(f"{self.described} has no split named train, only {few(found)}.", "Use another dataset.")
        features = found["train"].features
        image, label = self._image_column(features), self._label_column(features)
        owners: dict[str, str] = {}
        if not _copy(found["train"], image, label, owners, new / "train"):
            raise UsageError(f"{self.described} has no images with a class in {label}.", "Name another column.")
        for name in _TESTED:
            # Published test sets may come without classes.
            has_labels = name in found and label in found[name].features
            if has_labels and _copy(found[name], image, label, owners, new / "test"):
                return

    def _image_column(self, features: Any) -> str:
        images = [name for name, kind in features.items() if type(kind).__name__ == "Image"]
        if len(images) > 1:
            images = [name for name in images if name in ("image", "img")]
        if len(images) != 1:
            raise UsageError(f"{self.described} has no image column, only {few(features)}.", "Use another dataset.")
        return images[0]

    def _label_column(self, features: Any) -> str:
        label = self._parts[2]
        if label is not None:
            if label not in features:
                raise UsageError(f"{self.described} has no column {label!r}.", f"It has {', '.join(features)}.")
            return label
        labels = [name for name, kind in features.items() if type(kind).__name__ == "ClassLabel"]
        labels = labels or [name for name in features if name in _LABELS]
        if len(labels) == 1:
            return labels[0]
        known = ", ".join(labels)
        raise UsageError(
            f"{self.described} has {f'several class columns: {known}' if labels else 'no known class column'}.",
            f"Append one of {known or ', '.join(features)} after a colon: {self.described}:COLUMN.",
        )


def _folder_name(name: str, owners: dict[str, str]) -> str:
    """A class's name without characters that folder names cannot have; `owners` has the class of each folder."""
    folder = re.sub(r'[/\\:*?"<>|\0]', "_", name).strip(". ") or "_"
    owner = owners.setdefault(folder.casefold(), name)
    if owner != name:
        raise UsageError(f"The classes {owner!r} and {name!r} need the same folder name.", "Rename one of them.")
    return folder


def _copy(rows: Any, image: str, label: str, owners: dict[str, str], folder: Path) -> int:
    """Write the images that have a class into class folders; returns their number."""
    names, kind = getattr(rows.features[label], "names", None), type(rows.features[image])
    written = 0
    for number, row in enumerate(rows.select_columns([image, label]).cast_column(image, kind(decode=False))):
        value, stored = row[label], row[image] or {}
        if value is None or (names and not 0 <= value < len(names)):
            continue
        place = folder / _folder_name(names[value] if names else str(value), owners)
        place.mkdir(parents=True, exist_ok=True)
        content, given = stored.get("bytes"), Path(stored.get("path") or "")
        if content is None:
            content = given.read_bytes() if given.is_file() else b""
        (place / f"{number:07d}{_suffix(content, given)}").write_bytes(content)
        written += 1
    return written


def _suffix(content: bytes, given: Path) -> str:
    """The suffix of an image's format; damaged images keep their suffix and are reported when they are read."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            found = f".{str(opened.format).lower()}"
    except OSError:
        found = given.suffix.lower()
    return found if found in SUFFIXES else ".jpg"
