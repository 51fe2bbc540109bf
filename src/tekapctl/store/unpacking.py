"""Archives, unpacked without leaving their folder."""

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from filelock import FileLock

from tekapctl.errors import UsageError
from tekapctl.store.files import explain, make_folder

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
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _unpack(archive, folder, inside)


def _unpack(archive: Path, folder: Path, inside: str) -> None:
    new = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(new, ignore_errors=True)  # of an unpacking that was killed
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename.startswith(f"{inside}/")]
            if any(".." in PurePosixPath(entry.filename).parts for entry in entries):
                raise UsageError(f"The archive {archive} wants to write elsewhere.", "Get it from somewhere else.")
            if sum(entry.file_size for entry in entries) > MOST_UNPACKED:
                raise UsageError(f"The archive {archive} is far larger than it should be.", "Fetch it anew.")
            opened.extractall(new, entries)
        if folder.is_dir():
            shutil.rmtree(folder)
        (new / inside).rename(folder)
    except OSError as error:
        raise explain(error, folder) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
