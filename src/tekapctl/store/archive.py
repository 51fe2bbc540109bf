"""Tar archives of which nothing is trusted."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tekapctl.errors import UsageError

_PIECE = 1 << 20
_MAGIC_OF_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Member:
    """A regular file in an archive.

    Attributes:
        path: Its path there.
        size: Its bytes.
        content: To read it from, while it is its turn.
        archive: The archive.
    """

    path: PurePosixPath
    size: int
    content: io.BufferedIOBase
    archive: Path

    def read(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces())

    def write(self, target: Path) -> None:
        """Copy it to a file."""
        with target.open("wb") as file:
            for piece in self.pieces():
                file.write(piece)

    def pieces(self) -> Iterator[bytes]:
        """All of it, in pieces that take little memory."""
        left = self.size
        while left:
            with _refusing(self.archive):
                piece = self.content.read(min(_PIECE, left))
                if not piece:
                    raise EOFError("it ends early")
            left -= len(piece)
            yield piece


def members(archive: Path, *, most_bytes: int) -> Iterator[Member]:
    """The regular files in a tar archive, packed by gzip or not at all, in order.

    Args:
        archive: The archive.
        most_bytes: An archive that unpacks to more is refused before it does.

    Raises:
        UsageError: It is damaged or too large.
    """
    with _refusing(archive), _opened(archive) as plain:
        bounded: Any = _Bounded(plain, most_bytes)
        with tarfile.open(fileobj=bounded, mode="r:") as opened:
            for entry in opened:
                if entry.offset_data + entry.size > most_bytes:
                    raise UsageError(
                        f"The archive {archive} is far larger than it should be: it has {entry.size:,} bytes of "
                        f"{entry.name}.",
                        "Use another archive.",
                    )
                # Sparse files claim sizes that they do not have.
                if not entry.isreg() or entry.issparse() or ".." in PurePosixPath(entry.name).parts:
                    continue
                content = opened.extractfile(entry)
                assert isinstance(content, io.BufferedIOBase)
                yield Member(PurePosixPath(entry.name), entry.size, content, archive)


def extract_member(archive: Path, member: str, target: Path, *, most_bytes: int, most_in_all: int) -> None:
    """Copy a regular file out of a tar archive; nothing else of the archive is unpacked.

    Args:
        archive: The archive.
        member: The file's path in it.
        target: Where it goes.
        most_bytes: A larger one is refused.
        most_in_all: An archive that unpacks to more is refused.

    Raises:
        UsageError: The archive is damaged, has no such file, or the file is a link or too large.
    """
    wanted = PurePosixPath(member)
    for found in members(archive, most_bytes=most_in_all):
        if found.path != wanted:
            continue
        if found.size > most_bytes:
            raise UsageError(f"{member} in {archive.name} has {found.size:,} bytes.", "Use another archive.")
        found.write(target)
        return
    raise UsageError(
        f"The archive {archive.name} has no regular file {member}.", "Use another archive, or a single checkpoint."
    )


class _Bounded:
    """What is read of an unpacked archive, in pieces and in places that an honest one needs."""

    def __init__(self, file: io.BufferedIOBase, most_bytes: int) -> None:
        self._file, self._most = file, most_bytes

    def read(self, size: int = -1) -> bytes:
        # Headers say how long they are themselves.
        if not 0 <= size <= 2 * _PIECE:
            raise tarfile.ReadError("a header claims to be larger than headers are")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        if not 0 <= place <= self._most:
            raise tarfile.ReadError("it unpacks to more than it should")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _opened(archive: Path) -> Iterator[io.BufferedIOBase]:
    with archive.open("rb") as file:
        is_packed = file.read(2) == _MAGIC_OF_GZIP
        file.seek(0)
        if not is_packed:
            yield file
            return
        with gzip.open(file) as plain:
            yield plain


@contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    """Turns what reading hostile bytes raises into the program's own error."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"The archive {archive} is damaged: {error}.", "Fetch it anew, or use another.") from None
