"""Finds image files by what a user writes: files, folders, patterns, and lists of paths in a stream."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from tekapctl.data.files.decoding import SUFFIXES
from tekapctl.data.files.listing import leads_back
from tekapctl.errors import UsageError

STREAM = "-"
"""Stands for the paths in a stream."""


def check_sources(sources: Sequence[str]) -> None:
    """Check that there may be images, before anything is computed. A missing file is left to its decoder.

    Raises:
        UsageError: A folder has no images, a pattern matches none, or the stream is named twice.
    """
    if sources.count(STREAM) > 1:
        raise UsageError(f"Standard input ({STREAM}) is named twice.", "Name it once.")
    for source in sources:
        if os.path.isdir(source):  # noqa: PTH112 - names of files may be anything, and are not changed
            problem = f"The folder {source!r} has no images ({' '.join(SUFFIXES)})."
        elif _is_pattern(source):
            problem = f"The pattern {source!r} matches no image ({' '.join(SUFFIXES)})."
        else:
            continue
        if next(find_images([source]), None) is None:
            raise UsageError(problem, "Name image files, or folders that have some.")


def find_images(sources: Sequence[str], stream: BinaryIO | None = None, *, null: bool = False) -> Iterator[str]:
    """The paths of images, one after the other as they are found.

    Args:
        sources: Files, folders with images in them and below, patterns such as `photos/**/*.jpg`, and `-` for the
            paths in the stream.
        stream: Paths, one a line.
        null: Paths in the stream end with a null byte, and may contain line breaks.
    """
    for source in sources:
        if source == STREAM and stream is not None:
            yield from _lines(stream, b"\0" if null else b"\n")
        elif os.path.isdir(source):  # noqa: PTH112
            yield from _below(source)
        elif _is_pattern(source):
            for found in sorted(glob.iglob(source, recursive=True)):  # noqa: PTH207
                if os.path.isdir(found):  # noqa: PTH112
                    if "**" not in source:  # which matches the files below, too
                        yield from _below(found)
                elif _is_image(found):
                    yield found
        else:
            yield source


def _lines(stream: BinaryIO, end: bytes) -> Iterator[str]:
    """Non-empty lines without their end, as they come."""
    if end == b"\n":
        yield from (os.fsdecode(line) for each in stream if (line := each.rstrip(b"\r\n")))
        return
    rest = b""
    while block := stream.read1(2**16) if hasattr(stream, "read1") else stream.read(2**16):
        *lines, rest = (rest + block).split(end)
        yield from (os.fsdecode(line) for line in lines if line)
    if rest:
        yield os.fsdecode(rest)


def _below(folder: str) -> Iterator[str]:
    """Images in a folder and its subfolders, also linked ones, sorted; hidden ones are left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((each.name, each.is_dir() and not leads_back(each.path)) for each in found)
    except OSError as error:
        raise UsageError(f"The folder {folder!r} cannot be read: {error.strerror}.", "Check its permissions.") from None
    for name, is_folder in entries:
        if name.startswith("."):
            continue
        path = os.path.join(folder, name)  # noqa: PTH118
        if is_folder:
            yield from _below(path)
        elif _is_image(name):
            yield path


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _is_pattern(source: str) -> bool:
    return glob.has_magic(source) and not os.path.exists(source)  # noqa: PTH110
