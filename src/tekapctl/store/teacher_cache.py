"""Caches the outputs of a frozen teacher for each view of each image in one memory-mapped file.

Each record has a checksum over its words and its index. A record that was never written, was torn by a crash or belongs
to another cache fails the check and counts as missing. So the file needs no index, no log, and no lock for several
processes that read and fill it at once.
"""

import errno
import json
import logging
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from filelock import FileLock

from tekapctl.store.atomic import atomic_write, disk_usage, explain, format_bytes, make_folder, remove_stale
from tekapctl.store.locks import is_in_use, lock_shared

logger = logging.getLogger(__name__)

Words = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]

RESERVE = 2**30
"""Bytes of disk space to leave free."""
_CHECK_EVERY = 2**24
"""Bytes written between two checks of the free space."""


@dataclass(frozen=True)
class Identity:
    """Everything that a cache's records depend on; equal identities share a cache."""

    name: str  # for people, not part of the key
    values: Mapping[str, str | int]
    records: int  # the maximum number of records
    words: int  # 32-bit words in a record, without its checksum

    @property
    def text(self) -> str:
        """The identity as JSON, which is stored next to the records."""
        plain = {"format": "tekapctl knowledge 1", **self.values, "records": self.records, "words": self.words}
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"

    @property
    def key(self) -> bytes:
        """SHA-256 of the identity."""
        return sha256(self.text.encode()).digest()

    @property
    def bytes(self) -> int:
        """Size of the full cache."""
        return self.records * (self.words + 1) * 4


class TeacherCache:
    """The cached outputs of one teacher for one dataset, augmentation and precision.

    Raises:
        TekapctlError: The folder is not writable.
    """

    def __init__(self, folder: Path, identity: Identity) -> None:
        self.identity = identity
        self.path = folder / f"{identity.name}-{identity.key[:6].hex()}"
        self._row = identity.words + 1
        self._key = int.from_bytes(identity.key[-4:], "little")
        source = np.random.Generator(np.random.PCG64(self._key))
        # With odd factors, every change of a single word changes the checksum.
        self._factors: Words = source.integers(2**32, size=identity.words, dtype=np.uint32) | np.uint32(1)
        make_folder(self.path)
        try:
            with FileLock(self.path / ".lock"):
                self._open()
        except OSError as error:
            raise explain(error, self.path) from error
        self.is_full = False
        self._until_check = 0

    def _open(self) -> None:
        """Map the file; one with another identity or length is replaced."""
        remove_stale(self.path)
        records, about = self.path / "records.bin", self.path / "identity.json"
        known = about.is_file() and about.read_text(errors="replace") == self.identity.text
        if not known or not records.is_file() or records.stat().st_size != self.identity.bytes:
            if records.exists() or about.exists():
                logger.info(f"the cache {self.path.name} is damaged or of another teacher; starting again")
            records.unlink(missing_ok=True)
            with records.open("wb") as file:
                file.truncate(self.identity.bytes)  # sparse: takes no disk space until records are written
            atomic_write(about, self.identity.text.encode())
        self._file = records.open("r+b", buffering=0)
        lock_shared(self._file)
        weakref.finalize(self, self._file.close)
        self._records: Words = np.memmap(
            self._file, dtype=np.uint32, mode="r", shape=(self.identity.records, self._row)
        )

    def read(self, indices: Indices) -> tuple[Words, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """The records with some numbers, and which of them are valid; the others have arbitrary content."""
        rows = self._records[indices]
        words = rows[:, :-1]
        return words, rows[:, -1] == self._sums(indices, words)

    def write(self, indices: Indices, words: Words) -> None:
        """Write records; a full disk ends the caching, not the run."""
        if self.is_full or not self._has_room(len(indices)):
            return
        rows = np.concatenate([words, self._sums(indices, words)[:, None]], axis=1)
        try:
            # Not through the memory map, where a full disk is a signal that kills the program.
            for index, row in zip(indices.tolist(), rows, strict=True):
                self._file.seek(index * self._row * 4)
                self._file.write(row.tobytes())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise explain(error, self.path) from error
            self._stop(f"the disk of {self.path.parent} is nearly full")

    @property
    def bytes_used(self) -> int:
        """Disk space of the records; 0 after they were deleted."""
        try:
            return disk_usage(self.path / "records.bin")
        except OSError:
            return 0

    @property
    def described(self) -> str:
        """Its folder and size, for the user."""
        free, missing = shutil.disk_usage(self.path).free, self.identity.bytes - self.bytes_used
        words = f"{format_bytes(self.bytes_used)} of at most {format_bytes(self.identity.bytes)} in {self.path}"
        return words if free - RESERVE > missing else f"{words}, with {format_bytes(free)} of disk space left"

    def _sums(self, indices: Indices, words: Words) -> Words:
        own = (indices.astype(np.uint64) * np.uint64(2654435761) + np.uint64(self._key)).astype(np.uint32)
        sums: Words = (words * self._factors).sum(axis=1, dtype=np.uint32) + own
        sums[sums == 0] = 1  # unwritten records are all zeros
        return sums

    def _has_room(self, count: int) -> bool:
        self._until_check -= count * self._row * 4
        if self._until_check < 0:
            self._until_check = _CHECK_EVERY
            try:
                if shutil.disk_usage(self.path).free < RESERVE:
                    self._stop(f"the disk of {self.path.parent} is nearly full")
            except OSError:
                self._stop(f"{self.path} was deleted")
        return not self.is_full

    def _stop(self, why: str) -> None:
        self.is_full = True
        logger.info(f"{why}: no more teacher outputs are cached, the teacher runs instead")


def damage(path: Path) -> str | None:
    """What is wrong with a cache's files, or None; records with a wrong checksum are merely computed again."""
    about, records = path / "identity.json", path / "records.bin"
    if not about.is_file() or not records.is_file():
        return "has no identity.json or no records.bin"
    try:
        values = json.loads(about.read_text())
        count, words = values["records"], values["words"]
        if not isinstance(count, int) or not isinstance(words, int):
            return "its identity does not state the number of records"
        expected = count * (words + 1) * 4
        if path.name.rpartition("-")[2] != sha256(about.read_bytes()).hexdigest()[:12]:
            return "its identity does not match its name"
        if records.stat().st_size != expected:
            return f"holds {records.stat().st_size} bytes instead of {expected}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"cannot be read: {error}"
    return None


def is_used(path: Path) -> bool:
    """Whether a process uses the cache in a folder."""
    return is_in_use(path / "records.bin")
