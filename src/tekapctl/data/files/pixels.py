"""Decoded images on disk, so that no later epoch or run decodes them again."""

import json
import shutil
from dataclasses import replace
from hashlib import file_digest, sha256
from math import prod
from pathlib import Path

from tekapctl.data.files.streaming import ImageFiles
from tekapctl.errors import TekapctlError
from tekapctl.store.atomic import atomic_path, format_bytes, make_folder

SUFFIX = ".pixels"


def stored(files: ImageFiles, folder: Path, dataset: str) -> ImageFiles:
    """The same files with their decoded images on disk; they are decoded now unless they are there.

    Args:
        files: The files; a change of any gives a new copy.
        folder: Where the copies are.
        dataset: What the images are, for listings.

    Returns:
        The files, which read their center crops from the copy.

    Raises:
        TekapctlError: There is no space for the copy.
    """
    path = folder / f"{sha256(files.identify()).hexdigest()[:32]}{SUFFIX}"
    shape = (len(files), files.channels, *files.size)
    unreadable = _described(path, shape)
    if unreadable is None or not files.are_unreadable(unreadable):
        unreadable = _write(files, path, shape, dataset)
    rows = tuple(range(len(files)))
    return replace(files, pixels=str(path), rows=rows, stored=len(files), unreadable=tuple(unreadable.items()))


def _described(path: Path, shape: tuple[int, ...]) -> dict[str, str] | None:
    """The unreadable files of a complete copy; None if there is no copy of this shape."""
    try:
        note = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if note["shape"] == list(shape) and path.stat().st_size == prod(shape):
            return {str(name): str(why) for name, why in note["unreadable"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _write(files: ImageFiles, path: Path, shape: tuple[int, int, int, int], dataset: str) -> dict[str, str]:
    needed, free = prod(shape), shutil.disk_usage(make_folder(path.parent)).free
    if needed > free:
        raise TekapctlError(
            f"The decoded images take {format_bytes(needed)}, and {path.parent} has {format_bytes(free)} free.",
            "Free space, use a smaller `data.size`, or leave out `data.cache`.",
        )
    digest, unreadable = sha256(), dict[str, str]()
    with atomic_path(path, path.with_suffix(".json")) as (part, note):
        with part.open("wb") as file:
            for pixels, damaged in files.batches():
                content = pixels.numpy().tobytes()
                digest.update(content)
                file.write(content)
                unreadable |= dict(damaged)
        images, _, height, width = shape
        described = f"{dataset}, {images:,} images of {height}x{width}"
        table = {"described": described, "shape": shape, "unreadable": unreadable, "sha256": digest.hexdigest()}
        note.write_text(json.dumps(table), encoding="utf-8")
    return unreadable


def damage(path: Path) -> str | None:
    """What is wrong with a copy; None if its checksum is right."""
    try:
        wanted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its description is missing or damaged"
    with path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    return None if found == wanted else "its checksum is wrong"
