"""The published pretrained teachers, fetched once and kept as safetensors."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.registry import unknown_name
from tekapctl.store.archive import extract_member
from tekapctl.store.download import Report, download, silent
from tekapctl.store.files import make_folder, sha256, sweep, write_whole
from tekapctl.store.home import Home
from tekapctl.store.published import read_published
from tekapctl.store.weights import classifier_shape, read_weights, save_weights

ORIGIN = "http://shape2prog.csail.mit.edu/repo"
MIRROR = "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"
MOST_CHECKPOINT = 512 * 2**20
MOST_ARCHIVE = 4 * 2**30


@dataclass(frozen=True)
class PretrainedTeacher:
    """A published teacher.

    Attributes:
        name: Its network's name in the zoo.
        accuracy: Its published top-1 on the test set, in percent.
        digest: SHA-256 of the published file, where it is known.
        dataset: What it was trained on.
    """

    name: str
    accuracy: float
    digest: str | None = None
    dataset: str = "cifar100"

    @property
    def origin(self) -> str:
        """Where the authors published it."""
        return f"{ORIGIN}/{self.name}_vanilla/ckpt_epoch_240.pth"

    @property
    def member(self) -> str:
        """Its path in the mirror's archive."""
        return f"cifar_teachers/{self.name}_vanilla/ckpt_epoch_240.pth"


CATALOGUE = {
    teacher.name: teacher
    for teacher in (
        PretrainedTeacher("wrn_40_2", 75.61),
        PretrainedTeacher("resnet56", 72.34),
        PretrainedTeacher("resnet110", 74.31),
        PretrainedTeacher("resnet32x4", 79.42, "22aa12e2b632b19ddde155ccf2388671842ddd304824b3095e0a7fff364beb4f"),
        PretrainedTeacher("vgg13", 74.64),
        PretrainedTeacher("ResNet50", 79.34),
    )
}


@dataclass(frozen=True)
class FetchedTeacher:
    """A teacher in the cache.

    Attributes:
        name: Its name.
        path: Its weights, as safetensors.
    """

    name: str
    path: Path


def fetched(home: Home, name: str) -> FetchedTeacher | None:
    """The teacher, if it is in the cache."""
    path = home.teachers / f"{name}.safetensors"
    return FetchedTeacher(name, path) if path.is_file() else None


def fetch(
    home: Home,
    name: str,
    *,
    force: bool = False,
    source: str | None = None,
    offline: bool = False,
    report: Report = silent,
) -> FetchedTeacher:
    """Get a published teacher into the cache.

    The file must have the catalogue's SHA-256; where that is not known, the first fetch records it and later ones are
    held to it.

    Args:
        home: Where it goes.
        name: Its name in the catalogue.
        force: Fetch it although it is there.
        source: A file or address to take it from: a checkpoint of any known layout, or the mirror's archive. What the
            user names so needs no known SHA-256.
        offline: Never touch the network.
        report: Is told of the download's progress.

    Raises:
        UsageError: There is no such teacher, or what came is not one.
        TekapctlError: It could not be had.
    """
    if name not in CATALOGUE:
        raise unknown_name("pretrained teacher", name, list(CATALOGUE))
    make_folder(home.teachers)
    with FileLock(home.teachers / f".{name}.lock"):
        sweep(home.teachers, f"{name}.safetensors")
        with _recording(home) as records:
            sweep(records.parent, records.name)
        present = fetched(home, name)
        if present and not force and source is None and not damage(home, present):
            raw = _raw(home, name)
            sweep(raw.parent, raw.name)
            raw.unlink(missing_ok=True)
            return present
        if offline and (source is None or "://" in source):
            raise UsageError(f"{name} is not in the cache, and --offline forbids fetching it.", "Leave out --offline.")
        _take(home, CATALOGUE[name], source, report)
    return FetchedTeacher(name, home.teachers / f"{name}.safetensors")


def damage(home: Home, teacher: FetchedTeacher) -> str | None:
    """What is wrong with a cached teacher's file, or None."""
    recorded = _records(home).get(teacher.path.name)
    if recorded is None:
        return "its SHA-256 was never recorded"
    found = sha256(teacher.path)
    return None if found == recorded else f"its SHA-256 is {found}, and {recorded} was recorded"


def _take(home: Home, teacher: PretrainedTeacher, source: str | None, report: Report) -> None:
    records = _records(home)
    published_key = f"{teacher.name} as published"
    raw = _raw(home, teacher.name)
    make_folder(raw.parent)
    raw.unlink(missing_ok=True)
    # What the user names with --from may be another training of the same network: the catalogue does not bind it.
    digest = None if source else teacher.digest or records.get(published_key)
    try:
        origin = _obtain(home, teacher, source, raw, digest, report)
        state, stated = _read(raw)
        network_classes, channels = classifier_shape(state, f"the file for {teacher.name}")
        _check_architecture(teacher.name, state, network_classes, channels)
        target = home.teachers / f"{teacher.name}.safetensors"
        found = sha256(raw)
        save_weights(
            target,
            state,
            {
                "format": "tekapctl weights 1",
                "kind": "teacher",
                "model": teacher.name,
                "dataset": teacher.dataset,
                "num_classes": str(network_classes),
                "in_channels": str(channels),
                "origin": origin,
                "published_sha256": found,
                "published_top1": f"{stated if stated is not None else teacher.accuracy:.2f}",
            },
        )
        new = {target.name: sha256(target)} | ({published_key: found} if source is None else {})
        _record(home, new)
    finally:
        raw.unlink(missing_ok=True)


def _obtain(
    home: Home, teacher: PretrainedTeacher, source: str | None, raw: Path, digest: str | None, report: Report
) -> str:
    """Put the published file at `raw`; returns where it is from."""
    if source is not None and not _is_archive(source):
        return download([source], raw, most_bytes=MOST_CHECKPOINT, report=report)
    problems = []
    if source is None:
        try:
            return download([teacher.origin], raw, most_bytes=MOST_CHECKPOINT, digest=digest, report=report)
        except TekapctlError as error:
            problems.append(error.problem)
    archive = home.downloads / "cifar_teachers.tar"
    if source is not None:
        archive = archive.with_name("given.tar")
        archive.unlink(missing_ok=True)
    try:
        origin = download([source or MIRROR], archive, most_bytes=MOST_ARCHIVE, report=report)
        extract_member(archive, teacher.member, raw, most_bytes=MOST_CHECKPOINT)
        if digest not in (None, sha256(raw)):
            raise TekapctlError(f"{teacher.member} has SHA-256 {sha256(raw)}, not {digest}.")
    except TekapctlError as error:
        problems.append(error.problem)
        archive.unlink(missing_ok=True)
        raise TekapctlError(
            f"{teacher.name} could not be fetched: {' '.join(problems)}",
            "Try again later, set TEKAPCTL_MIRROR to a mirror of yours, or give a file with --from.",
        ) from None
    if source is not None:
        archive.unlink(missing_ok=True)
    return origin


def _is_archive(source: str) -> bool:
    return source.endswith((".tar", ".tar.gz", ".tgz"))


def _read(raw: Path) -> tuple[dict[str, Tensor], float | None]:
    with raw.open("rb") as file:
        head = file.read(9)
    # Safetensors begin with the length of their header and its brace.
    if len(head) == 9 and head[8:] == b"{":
        return read_weights(raw)[0], None
    checkpoint = read_published(raw)
    return checkpoint.state, checkpoint.accuracy


def _check_architecture(name: str, state: dict[str, Tensor], classes: int, channels: int) -> None:
    from tekapctl.models import build
    from tekapctl.store.weights import load_into

    load_into(build(name, classes, channels), state, source=f"the file for {name}")


def _raw(home: Home, name: str) -> Path:
    """Where the published file is until it is read."""
    return home.downloads / f"{name}.published"


def _records_path(home: Home) -> Path:
    return home.teachers / "sha256.json"


def _record(home: Home, new: dict[str, str]) -> None:
    """Add to the records; other processes may do the same."""
    with _recording(home) as path:
        write_whole(path, (json.dumps(_records(home) | new, indent=2, sort_keys=True) + "\n").encode())


@contextmanager
def _recording(home: Home) -> Iterator[Path]:
    """The records' file, which no other process writes meanwhile."""
    path = _records_path(home)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield path


def _records(home: Home) -> dict[str, str]:
    try:
        found = json.loads(_records_path(home).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
