"""Fetching published datasets; a folder is replaced only once its successor is complete and was read."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tekapctl.data.image_set import Splits
from tekapctl.errors import TekapctlError, UsageError
from tekapctl.settings import Settings
from tekapctl.store.atomic import atomic_folder, delete, replacement_lock
from tekapctl.store.download import Downloaded, download, file_in, published
from tekapctl.store.http import Report, silent

_ARCHIVES = (".tar.gz", ".zip")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published dataset."""

    name: str
    addresses: Sequence[str]  # in order of preference
    max_bytes: int  # a larger file is refused
    md5: str | None = None  # as published, if it is


def download_files(
    files: Sequence[PublishedFile],
    folder: Path,
    parts: Path,
    unpack: Callable[[Downloaded, Path, str], None],
    *,
    source: str | None,
    report: Report,
) -> None:
    """Download the files of a dataset into a folder.

    Args:
        files: The files.
        folder: The dataset's folder.
        parts: Where unfinished downloads are kept.
        unpack: Puts a downloaded file, whose published name is the last argument, into the folder.
        source: A file or folder to take them from, which needs no published checksum. Default: the published addresses.
        report: Receives the progress.

    Raises:
        UsageError: A file is not the published one.
        TekapctlError: A file could not be downloaded.
    """
    for file in files:
        suffixes = [suffix for suffix in _ARCHIVES if file.name.endswith(suffix)] if len(files) == 1 else []
        sources = [file_in(source, file.name, *suffixes)] if source else published(*file.addresses)
        with download(sources, parts, file.name, max_bytes=file.max_bytes, report=report) as found:
            if source is None and file.md5 is not None and not _has_md5(found.path, file.md5):
                raise UsageError(
                    f"{found.path.name} is not the file that was published: its MD5 is not {file.md5}.",
                    "Fetch it again, or name another source.",
                )
            unpack(found, folder, file.name)


def replace_folder(
    folder: Path,
    fill: Callable[[Path, Path], None],
    check: Callable[[Path], str],
    *,
    force: bool,
    md5: Mapping[str, str] | None = None,
) -> str:
    """Make a dataset's folder unless it exists and is complete; returns what is in it, for the user.

    Args:
        folder: The dataset's folder. It stays as it is until the new one is complete and was read.
        fill: Writes the dataset's files into a new folder; the second folder keeps unfinished downloads.
        check: Reads the dataset in a folder and returns its size in words.
        force: Replace the folder even if it is complete.
        md5: The MD5 of its published files; the user is told if a file differs.

    Raises:
        UsageError: The files are not those of the dataset.
        TekapctlError: They could not be downloaded or written.
    """
    parts = folder.with_name(f".{folder.name}.parts")
    with replacement_lock(folder):
        if not force and folder.is_dir():
            try:
                found = check(folder)
            except TekapctlError:
                pass  # damaged: fetch it again
            else:
                delete(parts)
                files = ((folder / name, digest) for name, digest in (md5 or {}).items())
                differs = any(path.is_file() and not _has_md5(path, digest) for path, digest in files)
                note = ", which is not the published one: `force` replaces it" if differs else ""
                return f"{found} at {folder}{note}"
        with atomic_folder(folder) as stage:
            new = stage / folder.name
            try:
                new.mkdir()
                fill(new, parts)
                found = check(new)
            except UsageError as error:
                # The new folder is deleted now; say what is left instead.
                problem = error.problem.replace(f"{new}/", "").replace(str(new), folder.name)
                kept = f" {folder} stays as it is." if folder.exists() else ""
                raise type(error)(problem + kept, error.remedy) from None
        delete(parts)
    return f"{found} at {folder}"


def _has_md5(path: Path, expected: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == expected


class FetchedSpec(Settings, ABC):
    """A dataset by its name: how it is fetched, and what reads it."""

    name: str = Field(description="Name of the dataset.")
    is_included: ClassVar[bool] = False
    """Whether its images come with the program."""
    shows_progress: ClassVar[bool] = False
    """Whether a library shows the progress of `fetch`, which then does not call `report`."""

    @abstractmethod
    def load(self, downloads: Path, *, offline: bool = False) -> Splits:
        """Load all images.

        Raises:
            UsageError: Files are missing or damaged.
        """

    def location(self, downloads: Path) -> Path:
        """The folder into which it is fetched."""
        return downloads / self.name

    @classmethod
    def of_fetched(cls, folder: Path) -> "FetchedSpec | None":
        """The settings that read a folder into which `fetch` has put images; None if it did so for another dataset."""
        return cls.model_validate({}) if folder.name == cls.model_fields["name"].default else None

    def published_files(self) -> Sequence[PublishedFile]:
        """The files to download; none if there is nothing to fetch."""
        return ()

    def unpack(self, file: Downloaded, folder: Path, name: str) -> None:
        """Put a downloaded file into the dataset's folder."""
        file.place(folder / name)

    def check(self, folder: Path) -> str:
        """Read the dataset in a folder.

        Returns:
            The number of images in words.

        Raises:
            UsageError: Files are missing or damaged.
        """
        splits = self.model_copy(update={"folder": str(folder)}).load(folder.parent, offline=True)
        return f"{len(splits.train) + len(splits.test):,} images"

    def fetch(self, downloads: Path, *, force: bool = False, source: str | None = None, report: Report = silent) -> str:
        """Download the dataset; with `force`, even if it is there.

        A `source`, a file, folder or URL, takes the place of the publisher; its files need no published checksum.

        Returns:
            A sentence for the user about what is there now.

        Raises:
            UsageError: The files are not those of the dataset.
            TekapctlError: They could not be downloaded or written.
        """
        files = self.published_files()
        if self.is_included or not files:
            return "comes with the program, nothing to fetch"
        return replace_folder(
            self.location(downloads),
            lambda folder, parts: download_files(files, folder, parts, self.unpack, source=source, report=report),
            self.check,
            force=force or source is not None,
            md5={file.name: file.md5 for file in files if file.md5 is not None},
        )
