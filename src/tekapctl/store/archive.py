"""Tar and zip archives from untrusted sources."""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tekapctl.errors import UsageError

MAX_UNPACKED = 2 * 2**30
MAX_FILES = 1_000_000
_PIECE = 1 << 20
_DUPLICATE_NAMES = (FileExistsError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Member:
    """A regular file in an archive, and its size in bytes; it can be read until the next member is requested."""

    path: PurePosixPath
    size: int
    content: io.BufferedIOBase
    archive: Path

    def read(self) -> bytes:
        """The whole content."""
        return b"".join(self.pieces())

    def write(self, target: Path) -> None:
        """Copy it to a file."""
        with target.open("wb") as file:
            for piece in self.pieces():
                file.write(piece)

    def pieces(self) -> Iterator[bytes]:
        """The content in small pieces."""
        left = self.size
        while left:
            with _refusing(self.archive):
                piece = self.content.read(min(_PIECE, left))
                if not piece:
                    raise EOFError("unexpected end of file")
            left -= len(piece)
            yield piece


def members(archive: Path, *, max_bytes: int, only_files: bool = False) -> Generator[Member, None, None]:
    """Yield the regular files of a tar archive, which may be compressed with gzip, in order.

    Args:
        archive: The archive.
        max_bytes: An archive that unpacks to more is refused before it does.
        only_files: Refuse links, devices, sparse files and paths with `..`, which are skipped otherwise.

    Raises:
        UsageError: The archive is damaged or too large.
    """
    with _refusing(archive), _opened(archive) as plain:
        bounded: Any = _Bounded(plain, max_bytes)
        with tarfile.open(fileobj=bounded, mode="r:") as opened:
            for entry in opened:
                if entry.offset_data + entry.size > max_bytes:
                    raise UsageError(
                        f"The archive {archive} is larger than expected: {entry.name} has {entry.size:,} bytes.",
                        "Use another archive.",
                    )
                # Sparse files claim more bytes than they have.
                if not entry.isreg() or entry.issparse() or ".." in PurePosixPath(entry.name).parts:
                    if only_files:
                        raise UsageError(
                            f"The archive {archive} has an entry that is no regular file inside it: {entry.name!r}.",
                            "Do not use it.",
                        )
                    continue
                content = opened.extractfile(entry)
                assert isinstance(content, io.BufferedIOBase)
                yield Member(PurePosixPath(entry.name), entry.size, content, archive)


def wanted(archive: Path, sizes: Mapping[str, int], *, max_bytes: int) -> Generator[Member, None, None]:
    """Yield some files of a tar archive, in its order; the archive is read no further than the last of them.

    Args:
        archive: The archive.
        sizes: The files' paths in the archive, each with the most bytes that it may have.
        max_bytes: An archive that unpacks to more before the last of them is refused.

    Raises:
        UsageError: The archive is damaged, a file is too large, or there is no such regular file.
    """
    left = {PurePosixPath(path): size for path, size in sizes.items()}
    with closing(members(archive, max_bytes=max_bytes)) as found:
        for member in found:
            if member.path not in left:
                continue
            if member.size > left.pop(member.path):
                raise UsageError(f"{member.path} in {archive} is larger than expected.", "Use another archive.")
            yield member
            if not left:
                return
    raise UsageError(f"The archive {archive} has no regular file {', '.join(map(str, left))}.", "Use another archive.")


def extract_member(archive: Path, member: str, target: Path, *, max_bytes: int, max_total_bytes: int) -> None:
    """Extract one file from a tar archive; see `wanted`."""
    with closing(wanted(archive, {member: max_bytes}, max_bytes=max_total_bytes)) as files:
        for found in files:
            found.write(target)


class _Bounded:
    """Limits reads and seeks in an unpacked archive to what a valid archive needs."""

    def __init__(self, file: io.BufferedIOBase, max_bytes: int) -> None:
        self._file, self._most = file, max_bytes

    def read(self, size: int = -1) -> bytes:
        # Headers state their own length.
        if not 0 <= size <= 2 * _PIECE:
            raise tarfile.ReadError("a header claims an impossible size")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        if not 0 <= place <= self._most:
            raise tarfile.ReadError("it unpacks to more than expected")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _opened(archive: Path) -> Iterator[io.BufferedIOBase]:
    with archive.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if is_packed else nullcontext(file) as plain:
            yield plain


@contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    """Translate all errors of reading hostile bytes."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it again, or use another.") from None


def unpack_zip(archive: Path, target: Path, *, inside: str) -> None:
    """Unpack the folder `inside` of a zip archive into the folder `target`.

    Raises:
        UsageError: The archive is damaged, has no such folder, has paths outside of it, or is too large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if entry.filename.startswith(f"{inside}/")]
            if not entries:
                raise UsageError(f"The archive {archive} has no folder {inside}.", "Use another.")
            if any(".." in PurePosixPath(entry.filename).parts for entry in entries):
                raise UsageError(f"The archive {archive} has paths outside its folder.", "Use another archive.")
            if sum(entry.file_size for entry in entries) > MAX_UNPACKED or len(entries) > MAX_FILES:
                raise UsageError(f"The archive {archive} is larger than expected.", "Use another.")
            opened.extractall(target, entries)
    # RuntimeError: encrypted files. NotImplementedError, a RuntimeError too: unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, *_DUPLICATE_NAMES) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it again, or use another.") from None
