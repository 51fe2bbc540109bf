"""Bundles: whole runs in one tar archive, with a manifest that has the size and the SHA-256 of every file."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tekapctl import __version__
from tekapctl.errors import UsageError
from tekapctl.store.archive import members
from tekapctl.store.atomic import atomic_path, sha256
from tekapctl.store.run import IMPORTED, WEIGHTS, Run, start_time
from tekapctl.store.runs import ID

MANIFEST = "manifest.json"
_MAX_MANIFEST = 2**26
_MAX_TEXT = 2**26
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}\.(toml|json|jsonl|txt)")
_STATE = re.compile(r"checkpoints/epoch-\d{6,}-step-\d{8,}\.state")
_NOT_BUNDLED = (IMPORTED, "progress.json")
_SUFFIXES = (".tar", ".tar.gz", ".tgz")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FileEntry(_Part):
    """A file of a run: its size in bytes, and its SHA-256 in hexadecimal."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class RunEntry(_Part):
    """A run, with its files by their paths in its folder."""

    run: str
    files: dict[str, FileEntry]


class Manifest(_Part):
    """What a bundle has, which is its first file."""

    format: Literal["tekapctl runs 1"] = "tekapctl runs 1"
    tekapctl: str = __version__
    runs: list[RunEntry] = Field(min_length=1)

    @property
    def files(self) -> dict[str, FileEntry]:
        """All files by their paths in the bundle."""
        return {f"{run.run}/{name}": entry for run in self.runs for name, entry in run.files.items()}


def write_bundle(runs: Sequence[Run], output: Path, *, weights: bool = True, checkpoints: bool = False) -> Manifest:
    """Write runs to a tar archive. The same runs give the same bytes.

    Args:
        runs: The runs.
        output: The archive, which is replaced: `.tar`, or `.tar.gz` to compress it.
        weights: Include their weights; without them, the runs can only be listed and compared.
        checkpoints: Include their training states, which are needed to resume or continue them.

    Raises:
        UsageError: The name has another suffix, or a run is running, damaged, or unfinished without `checkpoints`.
    """
    if not output.name.endswith(_SUFFIXES):
        raise UsageError(f"{output.name} is not the name of a bundle.", "Name a file that ends with .tar or .tar.gz.")
    with ExitStack() as held:
        for run in runs:
            _check(run, weights=weights, checkpoints=checkpoints)
            if run.status != "finished":
                held.enter_context(run.lock())  # it must not be resumed meanwhile
        found = {run: _files(run, weights=weights, checkpoints=checkpoints) for run in runs}
        manifest = Manifest(runs=[RunEntry(run=run.id, files=_entries(run, names)) for run, names in found.items()])
        with atomic_path(output) as (part,), part.open("wb") as file, _archive(file, output) as archive:
            text = json.dumps(manifest.model_dump(), indent=1).encode() + b"\n"
            archive.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
            for run, names in found.items():
                for name in names:
                    with (run.path / name).open("rb") as content:
                        size = (run.path / name).stat().st_size
                        archive.addfile(_member(f"{run.id}/{name}", size), content)
    return manifest


def _check(run: Run, *, weights: bool, checkpoints: bool) -> None:
    """Check that a run can be exported."""
    status = run.status
    if status == "running":
        raise UsageError(f"The run {run.id} is running.", "Wait for it, or stop it.")
    gone = [name for name in run.checksummed if name not in run.left_out and not (run.path / name).is_file()]
    if run.kind() is None or status in ("damaged", "unknown") or (weights and gone):
        raise UsageError(
            f"The run {run.id} is damaged.", f"`tekapctl runs verify {run.id}` shows what is wrong; leave it out."
        )
    if status != "finished" and not checkpoints:
        raise UsageError(
            f"The run {run.id} is {status}.", "Leave it out, or give `checkpoints` so that it can be resumed elsewhere."
        )


def _files(run: Run, *, weights: bool, checkpoints: bool) -> list[str]:
    """The files of a run that go into a bundle, by their paths in its folder."""
    found = [
        path.name
        for path in sorted(run.path.iterdir())
        if path.is_file() and not path.is_symlink() and _TEXT.fullmatch(path.name) and path.name not in _NOT_BUNDLED
    ]
    if weights:
        found += [name for name in WEIGHTS.values() if (run.path / name).is_file()]
    if checkpoints:
        states = (f"checkpoints/{path.name}" for path in sorted(run.checkpoints.glob("*.state")))
        found += [name for name in states if _STATE.fullmatch(name)]
    return found


def _entries(run: Run, names: Sequence[str]) -> dict[str, FileEntry]:
    found = {}
    for name in names:
        path = run.path / name
        digest = sha256(path)
        if name in WEIGHTS.values():
            run.check_weights(path, digest)
        found[name] = FileEntry(size=path.stat().st_size, sha256=digest)
    return found


@contextmanager
def _archive(file: BinaryIO, output: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive that is written to a file, compressed if the output is to be."""
    with ExitStack() as opened:
        target: Any = file
        if not output.name.endswith(".tar"):
            target = opened.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0))
        yield opened.enter_context(tarfile.open(fileobj=target, mode="w"))


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle, checked as far as it can be without the other files.

    Raises:
        UsageError: The file is no bundle, is damaged, or names files that no run has.
    """
    if not bundle.is_file():
        raise UsageError(f"There is no file {bundle}.", "Name a bundle that `tekapctl runs export` wrote.")
    remedy = "Name a file that `tekapctl runs export` wrote, or copy it again."
    try:
        with closing(members(bundle, max_bytes=_MAX_MANIFEST, only_files=True)) as files:
            first = next(files, None)
            text = first.read() if first is not None and str(first.path) == MANIFEST else None
    except UsageError as error:
        raise UsageError(error.problem, remedy) from None
    if text is None:
        raise UsageError(f"{bundle} is not a bundle of runs.", remedy)
    try:
        manifest = Manifest.model_validate_json(text)
    except (ValidationError, ValueError, RecursionError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"The manifest of {bundle} is not valid: {why}.", "Export the runs again.") from None
    for run in manifest.runs:
        if not ID.fullmatch(run.run) or start_time(run.run) is None:
            raise UsageError(f"The bundle {bundle} has a run {run.run!r}, which is not an id.", "Do not use it.")
        for name, entry in run.files.items():
            is_text = bool(_TEXT.fullmatch(name)) and name not in _NOT_BUNDLED and entry.size <= _MAX_TEXT
            if not (is_text or name in WEIGHTS.values() or _STATE.fullmatch(name)):
                raise UsageError(f"The bundle {bundle} has a file that no run has: {name!r}.", "Do not use it.")
        if "spec.toml" not in run.files:
            raise UsageError(f"The bundle {bundle} has no spec of the run {run.run}.", "Export the run again.")
    if len({run.run for run in manifest.runs}) < len(manifest.runs):
        raise UsageError(f"The bundle {bundle} has a run twice.", "Do not use it.")
    return manifest


def unpack(bundle: Path, manifest: Manifest, folder: Path, wanted: frozenset[str]) -> None:
    """Read a whole bundle, check every file against the manifest, and write those at the wanted paths to a folder.

    Raises:
        UsageError: A file is missing, differs from the manifest, is there twice, or is not in it.
    """
    left = manifest.files
    most = sum(entry.size for entry in left.values()) + 4096 * len(left) + 2 * _MAX_MANIFEST
    for number, member in enumerate(members(bundle, max_bytes=most, only_files=True)):
        path = str(member.path)
        if number == 0:
            for _ in member.pieces():
                pass
            continue
        entry = left.pop(path, None)
        if entry is None or entry.size != member.size:
            what = "has another size than in its manifest" if entry else "is not in its manifest, or is there twice"
            raise UsageError(f"The bundle {bundle} is damaged: {path} {what}.", "Export the runs again.")
        digest = hashlib.sha256()
        with _flushed(folder / path) if path in wanted else nullcontext() as file:
            for piece in member.pieces():
                digest.update(piece)
                if file is not None:
                    file.write(piece)
        if digest.hexdigest() != entry.sha256:
            raise UsageError(
                f"The bundle {bundle} is damaged: the checksum of {path} is not the one in its manifest.",
                "Copy it again, or export the runs again.",
            )
    if left:
        raise UsageError(f"The bundle {bundle} is incomplete: {next(iter(left))} is missing.", "Copy it again.")


@contextmanager
def _flushed(path: Path) -> Iterator[BinaryIO]:
    """A file that is flushed to disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
