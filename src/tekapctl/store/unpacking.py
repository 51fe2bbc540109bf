"""Archives, unpacked without leaving their folder."""

import zipfile
from pathlib import Path, PurePosixPath

from tekapctl.errors import UsageError
from tekapctl.store.whole_folder import whole_folder

MOST_UNPACKED = 4 * 2**30


def unpack_zip(archive: Path, folder: Path, *, inside: str) -> None:
    """Unpack one folder of an archive; it appears whole, in the place of what was there.

    Args:
        archive: The file.
        folder: Where to.
        inside: The folder in the archive.

    Raises:
        UsageError: It wants to write elsewhere, or is far larger than it should be.
        TekapctlError: The disk is full or cannot be written.
        zipfile.BadZipFile: It is damaged.
    """
    with whole_folder(folder, inside) as new, zipfile.ZipFile(archive) as opened:
        entries = [entry for entry in opened.infolist() if entry.filename.startswith(f"{inside}/")]
        if any(".." in PurePosixPath(entry.filename).parts for entry in entries):
            raise UsageError(f"The archive {archive} wants to write elsewhere.", "Get it from somewhere else.")
        if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
            raise UsageError(f"The archive {archive} is far larger than it should be.", "Fetch it anew.")
        opened.extractall(new, entries)
