"""Zip archives, unpacked without leaving their folder."""

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tekapctl.errors import UsageError

MOST_UNPACKED = 2 * 2**30
MOST_FILES = 1_000_000
_TWO_OF_ONE_NAME = (FileExistsError, IsADirectoryError, NotADirectoryError)


def unpack_zip(archive: Path, target: Path, *, inside: str) -> None:
    """Unpack one folder of an archive into a new one.

    Args:
        archive: The file.
        target: The folder in which the archive's is made.
        inside: The folder in the archive.

    Raises:
        UsageError: It is damaged, has no such folder, wants to write elsewhere, or is far larger than it should be.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename.startswith(f"{inside}/")]
            _check(archive, entries, inside)
            opened.extractall(target, entries)
    # Encrypted files are a RuntimeError, unknown ways of packing a NotImplementedError, which is one too.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, *_TWO_OF_ONE_NAME) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it anew, or use another.") from None


def _check(archive: Path, entries: list[zipfile.ZipInfo], inside: str) -> None:
    if not entries:
        raise UsageError(f"The archive {archive} has no folder {inside}.", "Use another.")
    if any(".." in PurePosixPath(entry.filename).parts for entry in entries):
        raise UsageError(f"The archive {archive} wants to write elsewhere.", "Get it from somewhere else.")
    if sum(entry.file_size for entry in entries) > MOST_UNPACKED or len(entries) > MOST_FILES:
        raise UsageError(f"The archive {archive} is far larger than it should be.", "Use another.")
