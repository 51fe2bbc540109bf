"""One file out of a tar archive of which nothing is trusted."""

import tarfile
from pathlib import Path, PurePosixPath

from tekapctl.errors import UsageError


def extract_member(archive: Path, member: str, target: Path, *, most_bytes: int) -> None:
    """Copy a regular file out of a tar archive; nothing else of the archive is unpacked.

    Args:
        archive: The archive.
        member: The file's path in it.
        target: Where it goes.
        most_bytes: A larger one is refused.

    Raises:
        UsageError: The archive is damaged, has no such file, or the file is a link or too large.
    """
    wanted = PurePosixPath(member)
    try:
        with tarfile.open(archive) as opened:
            for entry in opened:
                if entry.size > most_bytes:
                    raise UsageError(
                        f"{entry.name} in {archive.name} has {entry.size:,} bytes.", "Use another archive."
                    )
                path = PurePosixPath(entry.name)
                if path != wanted or ".." in path.parts:
                    continue
                if not entry.isreg():
                    raise UsageError(f"{member} in {archive.name} is no regular file.", "Use another archive.")
                source = opened.extractfile(entry)
                assert source is not None
                with source, target.open("wb") as file:
                    while piece := source.read(1 << 20):
                        file.write(piece)
                return
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(f"The archive {archive.name} is damaged: {error}.", "Fetch it anew, or use another.") from None
    raise UsageError(f"The archive {archive.name} has no {member}.", "Use another archive, or a single checkpoint.")
