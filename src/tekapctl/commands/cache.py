"""List, verify and clear the artifact cache."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tekapctl.errors import TekapctlError
from tekapctl.registry import unknown_name
from tekapctl.store import teacher_cache
from tekapctl.store.atomic import delete, disk_usage, read_json
from tekapctl.store.home import Home
from tekapctl.store.locks import is_locked

KINDS = ("teachers", "datasets", "downloads", "knowledge", "images")
_NOTE = ("images", ".json")
"""Describes the file beside it."""


@dataclass(frozen=True)
class Artifact:
    """A file or folder in the cache, of one of the `KINDS`, with its size on disk.

    Its description says what is in it where its name does not.
    """

    kind: str
    name: str
    path: Path
    bytes: int
    described: str | None = None


def list_artifacts(home: Home, kinds: Sequence[str] | None = None) -> list[Artifact]:
    """The artifacts in the cache, by kind and name.

    Raises:
        UsageError: There is no such kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown_name("kind of artifact", kind, list(KINDS))
    found = []
    for kind in kinds or KINDS:
        folder = home.root / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.name.startswith(".") and path.name != "sha256.json" and (kind, path.suffix) != _NOTE:
                name = path.name.removesuffix(".safetensors")
                found.append(Artifact(kind, name, path, _bytes(path), _described(kind, path)))
    return found


def _described(kind: str, path: Path) -> str | None:
    if kind != "images":
        return None
    described = read_json(path.with_suffix(".json")).get("described")
    return None if described is None else str(described)


def verify(home: Home) -> list[tuple[Artifact, str | None]]:
    """Every artifact with its problem, or None.

    The SHA-256 of teachers is compared with the recorded one, datasets are read completely.
    """
    return [(artifact, _problem(home, artifact)) for artifact in list_artifacts(home)]


@dataclass(frozen=True)
class Cleared:
    """The bytes that clearing the cache freed, and the artifacts that were left because another process uses them."""

    bytes: int
    kept: tuple[Artifact, ...]


def clear(home: Home, kinds: Sequence[str] | None = None) -> Cleared:
    """Delete all artifacts, or those of some kinds, except those that another process uses. Runs are not artifacts."""
    freed, kept = 0, []
    for artifact in list_artifacts(home, kinds):
        if _is_used(artifact):
            kept.append(artifact)
            continue
        freed += artifact.bytes
        delete(artifact.path)
        if artifact.kind == "images":
            delete(artifact.path.with_suffix(".json"))
    for kind in kinds or KINDS:
        if not _is_fetching(home, kind):
            # Unfinished downloads, half unpacked archives, locks, and scans of image folders.
            for rest in (home.root / kind).glob(".*"):
                if not (rest.is_file() and is_locked(rest)):  # another process is writing it
                    delete(rest)
    return Cleared(freed, tuple(kept))


def _is_used(artifact: Artifact) -> bool:
    lock = artifact.path.with_name(f".{artifact.name}.lock")
    return is_locked(lock) or (artifact.kind == "knowledge" and teacher_cache.is_used(artifact.path))


def _is_fetching(home: Home, kind: str) -> bool:
    # Teachers are downloaded to the folder of downloads first.
    folders = [home.root / kind, *([home.teachers] if kind == "downloads" else [])]
    return any(is_locked(lock) for folder in folders for lock in folder.glob(".*.lock"))


def _problem(home: Home, artifact: Artifact) -> str | None:
    if artifact.kind == "teachers":
        from tekapctl.models.pretrained import FetchedTeacher, damage  # imports PyTorch, which a list does not need

        return damage(home, FetchedTeacher(artifact.name, artifact.path))
    if artifact.kind == "datasets":
        from tekapctl.data import DATASETS, data_spec

        try:
            of_each = (DATASETS[name].of_fetched(artifact.path) for name in DATASETS)
            spec = next(filter(None, of_each), None) or data_spec(artifact.name)
            spec.load(home.datasets, offline=True)
        except TekapctlError as error:
            return error.problem
    if artifact.kind == "knowledge":
        return teacher_cache.damage(artifact.path)
    if artifact.kind == "images":
        from tekapctl.data.files import pixels

        return pixels.damage(artifact.path)
    return None


def _bytes(path: Path) -> int:
    total = 0
    for file in path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]:
        with suppress(OSError):  # deleted in the meantime
            total += disk_usage(file) if file.is_file() and not file.is_symlink() else 0
    return total
