"""Published pretrained teachers: downloaded once, checked and stored as safetensors."""

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from tekapctl.errors import TekapctlError
from tekapctl.models.zoo import build
from tekapctl.registry import unknown_name
from tekapctl.store.archive import extract_member
from tekapctl.store.atomic import atomic_write, make_folder, read_json, remove_stale, sha256
from tekapctl.store.download import Downloaded, OfflineError, download, no_network, published, remove_stale_parts
from tekapctl.store.home import Home
from tekapctl.store.http import Report, silent
from tekapctl.store.legacy_checkpoint import read_published
from tekapctl.store.weights import classifier_shape, encode_weights, load_into, read_weights

ORIGIN = "http://shape2prog.csail.mit.edu/repo"
MIRROR = "https://github.com/megvii-research/mdistiller/releases/download/checkpoints/cifar_teachers.tar"
MAX_CHECKPOINT = 512 * 2**20
MAX_ARCHIVE = 4 * 2**30
_ARCHIVES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class PretrainedTeacher:
    """A published teacher."""

    name: str  # of its network in the zoo
    accuracy: float  # published top-1 accuracy on the test set, in percent
    digest: str | None = None  # SHA-256 of the published file, if known
    dataset: str = "cifar100"

    @property
    def origin(self) -> str:
        """Address of the authors' file."""
        return f"{ORIGIN}/{self.name}_vanilla/ckpt_epoch_240.pth"

    @property
    def member(self) -> str:
        """Path in the mirror's archive."""
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
    """A teacher in the cache: its name and its weights as safetensors."""

    name: str
    path: Path


def fetched(home: Home, name: str) -> FetchedTeacher | None:
    """The teacher if it is in the cache, else None."""
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
    """Download a published teacher into the cache; with `force`, even if it is there.

    The file must have the SHA-256 in the catalogue; if that is unknown, the first download records it for later ones.
    That of a `source` is not checked: a file or URL of a checkpoint of any known layout, or of the mirror's archive.

    Raises:
        UsageError: There is no such teacher, or the file is not a checkpoint of it.
        TekapctlError: It could not be downloaded.
    """
    if name not in CATALOGUE:
        raise unknown_name("pretrained teacher", name, list(CATALOGUE))
    make_folder(home.teachers)
    with FileLock(home.teachers / f".{name}.lock"), no_network(name) if offline else nullcontext():
        present = fetched(home, name)
        if present is None or force or source is not None or damage(home, present):
            _take(home, CATALOGUE[name], source, report)
        remove_stale(home.teachers, f"{name}.safetensors")
        for part in (f"{name}.published", f"{name}.tar"):
            remove_stale_parts(home.downloads, part)
        with _recording(home) as records:
            remove_stale(records.parent, records.name)
    return FetchedTeacher(name, home.teachers / f"{name}.safetensors")


def damage(home: Home, teacher: FetchedTeacher) -> str | None:
    """What is wrong with the file of a cached teacher, or None."""
    known = recorded(home, teacher)
    if not known:
        return "its SHA-256 was never recorded"
    if not teacher.path.is_file():
        return "is not a file"
    found = sha256(teacher.path)
    return None if found in known else f"its SHA-256 is {found}, and {known[0]} was recorded"


def recorded(home: Home, teacher: FetchedTeacher) -> tuple[str, ...]:
    """The valid SHA-256 values of a cached teacher: of its file, and of one that was about to replace it."""
    records = _records(home)
    return tuple(records[key] for key in (teacher.path.name, _next(teacher.path)) if key in records)


def _take(home: Home, teacher: PretrainedTeacher, source: str | None, report: Report) -> None:
    """Download, check and store a teacher; at every moment the SHA-256 of its file is recorded."""
    published_key = f"{teacher.name} as published"
    # A source of the user may be another training of the same network, with another SHA-256.
    digest = None if source else teacher.digest or _records(home).get(published_key)
    with _obtained(home, teacher, source, digest, report) as file:
        state, stated = _read(file.path)
        network_classes, channels = classifier_shape(state, f"the file for {teacher.name}")
        load_into(build(teacher.name, network_classes, channels), state, source=f"the file for {teacher.name}")
        found = sha256(file.path)
    metadata = {
        "format": "tekapctl weights 1",
        "kind": "teacher",
        "model": teacher.name,
        "dataset": teacher.dataset,
        "num_classes": str(network_classes),
        "in_channels": str(channels),
        "origin": file.origin,
        "published_sha256": found,
        "published_top1": f"{stated if stated is not None else teacher.accuracy:.2f}",
    }
    content, target = encode_weights(state, metadata), home.teachers / f"{teacher.name}.safetensors"
    stored = hashlib.sha256(content).hexdigest()
    _record(home, {_next(target): stored})
    atomic_write(target, content)
    _record(home, {target.name: stored, **({published_key: found} if source is None else {})}, without=_next(target))


def _next(path: Path) -> str:
    """The key for the checksum of the file that is about to replace another one."""
    return f"{path.name} next"


@contextmanager
def _obtained(
    home: Home, teacher: PretrainedTeacher, source: str | None, digest: str | None, report: Report
) -> Iterator[Downloaded]:
    """The published file: from the user's source, the authors' address, or the mirror's archive."""
    get = partial(download, folder=home.downloads, report=report)
    with ExitStack() as stack:
        if source is not None and source.endswith(_ARCHIVES):
            archive = stack.enter_context(get([source], name=f"{teacher.name}.tar", max_bytes=MAX_ARCHIVE))
            yield stack.enter_context(_extracted(home, teacher, archive, None))
            return
        sources = [source] if source is not None else published(teacher.origin)
        try:
            file = stack.enter_context(
                get(sources, name=f"{teacher.name}.published", max_bytes=MAX_CHECKPOINT, digest=digest)
            )
        except TekapctlError as first:
            if source is not None:
                raise
            try:
                file = stack.enter_context(_extracted(home, teacher, _mirrored(home, report), digest))
            except OfflineError:
                raise
            except TekapctlError as second:
                raise TekapctlError(
                    f"{teacher.name} could not be fetched: {first.problem} {second.problem}", second.remedy
                ) from None
        yield file


def _mirrored(home: Home, report: Report) -> Downloaded:
    """The mirror's archive, downloaded once for all teachers."""
    archive = make_folder(home.downloads) / "cifar_teachers.tar"
    with FileLock(archive.with_name(f".{archive.name}.lock")):
        if not archive.is_file():
            sources = published(MIRROR)
            with download(sources, home.downloads, archive.name, max_bytes=MAX_ARCHIVE, report=report) as file:
                file.place(archive)
    return Downloaded(archive, MIRROR, is_users=False)


@contextmanager
def _extracted(home: Home, teacher: PretrainedTeacher, archive: Downloaded, digest: str | None) -> Iterator[Downloaded]:
    """Extract the file of a teacher from an archive; a mirrored archive that has no good one is deleted."""
    raw = home.downloads / f".{teacher.name}.published.{secrets.token_hex(32)}.part"
    try:
        try:
            extract_member(archive.path, teacher.member, raw, max_bytes=MAX_CHECKPOINT, max_total_bytes=MAX_ARCHIVE)
            if digest is not None and (found := sha256(raw)) != digest:
                raise TekapctlError(f"{teacher.member} has SHA-256 {found}, not {digest}.")
        except TekapctlError:
            if not archive.is_users:
                archive.path.unlink(missing_ok=True)
            raise
        yield Downloaded(raw, archive.origin, is_users=False)
    finally:
        raw.unlink(missing_ok=True)


def _read(raw: Path) -> tuple[dict[str, Tensor], float | None]:
    """The state dict in a published file, and the accuracy that it states."""
    with raw.open("rb") as file:
        head = file.read(9)
    # Safetensors files start with the length of the JSON header (8 bytes) and its opening brace.
    if head[8:] == b"{":
        return read_weights(raw)[0], None
    checkpoint = read_published(raw)
    return checkpoint.state, checkpoint.accuracy


@contextmanager
def _recording(home: Home) -> Iterator[Path]:
    """Lock the file of records, and return its path."""
    path = home.teachers / "sha256.json"
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield path


def _record(home: Home, new: dict[str, str], without: str = "") -> None:
    """Add records and remove one; other processes may do the same at once."""
    with _recording(home) as path:
        records = {key: value for key, value in (_records(home) | new).items() if key != without}
        atomic_write(path, (json.dumps(records, indent=2, sort_keys=True) + "\n").encode())


def _records(home: Home) -> dict[str, str]:
    return {key: str(value) for key, value in read_json(home.teachers / "sha256.json").items()}
