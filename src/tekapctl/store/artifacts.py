"""The artifact cache as its user sees it: what is there, whether it is whole, and away with it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tekapctl.errors import UsageError
from tekapctl.registry import unknown_name
from tekapctl.store import knowledge
from tekapctl.store.files import room
from tekapctl.store.home import Home
from tekapctl.store.teachers import FetchedTeacher, damage

KINDS = ("teachers", "datasets", "downloads", "knowledge")


@dataclass(frozen=True)
class Artifact:
    """Something in the cache.

    Attributes:
        kind: `teachers`, `datasets`, `downloads` or `knowledge`.
        name: Its name.
        path: Its file or folder.
        bytes: Its size.
    """

    kind: str
    name: str
    path: Path
    bytes: int


def list_artifacts(home: Home, kinds: Sequence[str] | None = None) -> list[Artifact]:
    """What the cache holds, by kind and name.

    Raises:
        UsageError: There is no such kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown_name("kind of cached thing", kind, list(KINDS))
    found = []
    for kind in kinds or KINDS:
        folder = home.root / kind
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not path.name.startswith(".") and path.name != "sha256.json":
                found.append(Artifact(kind, path.name.removesuffix(".safetensors"), path, _bytes(path)))
    return found


def verify(home: Home) -> list[tuple[Artifact, str | None]]:
    """Every artifact with what is wrong with it, or None.

    Teachers are held to their recorded SHA-256, data sets are read whole.
    """
    return [(artifact, _problem(home, artifact)) for artifact in list_artifacts(home)]


def clear(home: Home, kinds: Sequence[str] | None = None) -> int:
    """Delete what the cache holds, or some kinds of it; returns the bytes freed. Runs are never touched."""
    freed = 0
    for artifact in list_artifacts(home, kinds):
        freed += artifact.bytes
        _delete(artifact.path)
    for kind in kinds or KINDS:
        # Parts and locks of broken downloads, half unpacked archives, what was found out about folders of images.
        for rest in (home.root / kind).glob(".*"):
            _delete(rest)
    return freed


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _problem(home: Home, artifact: Artifact) -> str | None:
    if artifact.kind == "teachers":
        return damage(home, FetchedTeacher(artifact.name, artifact.path))
    if artifact.kind == "datasets":
        from tekapctl.data import data_spec

        try:
            of_the_hub = artifact.name.startswith("hf--")
            data_spec(f"folder:{artifact.path}" if of_the_hub else artifact.name).load(home.datasets, offline=True)
        except UsageError as error:
            return error.problem
    if artifact.kind == "knowledge":
        return knowledge.damage(artifact.path)
    return None


def _bytes(path: Path) -> int:
    if path.is_file():
        return room(path)
    return sum(room(file) for file in path.rglob("*") if file.is_file())
