"""Records of what a frozen teacher says of each view of each image, in one memory-mapped file.

A record carries a sum over its words and its place. A record that was never written, was torn by a crash, or is
another store's does not add up, and is as if it were not there; so the file needs no index, no log, and no lock to be
read and filled by several processes at once.
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
Places = np.ndarray[tuple[int], np.dtype[np.int64]]

RESERVE = 2**30
"""Bytes of the disk that are left to others."""
_CHECK_EVERY = 2**24
"""Bytes written between two looks at the free space."""


@dataclass(frozen=True)
class Identity:
    """What a store's records depend on; equal identities share a store.

    Attributes:
        name: A word for people; not part of the key.
        values: Everything else, as plain values.
        records: How many records there can be.
        words: 32-bit words of a record, without its sum.
    """

    name: str
    values: Mapping[str, str | int]
    records: int
    words: int

    @property
    def text(self) -> str:
        """All of it as JSON, which the store keeps beside its records."""
        plain = {"format": "tekapctl knowledge 1", **self.values, "records": self.records, "words": self.words}
        return json.dumps(plain, indent=2, sort_keys=True) + "\n"

    @property
    def key(self) -> bytes:
        """A digest of it."""
        return sha256(self.text.encode()).digest()

    @property
    def bytes(self) -> int:
        """Size of the store when it is full."""
        return self.records * (self.words + 1) * 4


class TeacherCache:
    """The records of one teacher, data set, augmentation and precision.

    Args:
        folder: Where stores are, each in a folder of its own.
        identity: Whose records these are.

    Raises:
        TekapctlError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
    ) -> None:
        self.identity = identity
        self.path = folder / f"{identity.name}-{identity.key[:6].hex()}"
        self._row = identity.words + 1
        self._key = int.from_bytes(identity.key[-4:], "little")
        source = np.random.Generator(np.random.PCG64(self._key))
        # Odd factors: no change of a single word leaves the sum as it was.
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
        """Map the file; one of another identity or length is made anew."""
        remove_stale(self.path)
        records, about = self.path / "records.bin", self.path / "identity.json"
        known = about.is_file() and about.read_text(errors="replace") == self.identity.text
        if not known or not records.is_file() or records.stat().st_size != self.identity.bytes:
            if records.exists() or about.exists():
                logger.info(f"the cached knowledge in {self.path.name} is damaged or not this teacher's: made anew")
            records.unlink(missing_ok=True)
            with records.open("wb") as file:
                file.truncate(self.identity.bytes)  # a hole: takes no room until records are written
            atomic_write(about, self.identity.text.encode())
        self._file = records.open("r+b", buffering=0)
        lock_shared(self._file)
        weakref.finalize(self, self._file.close)
        self._records: Words = np.memmap(
            self._file, dtype=np.uint32, mode="r", shape=(self.identity.records, self._row)
        )

    def read(self, places: Places) -> tuple[Words, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """The records at some places, and which of them are whole; those that are not hold anything.

        Args:
            places: Numbers of records.
        """
        rows = self._records[places]
        words = rows[:, :-1]
        return words, rows[:, -1] == self._sums(places, words)

    def write(self, places: Places, words: Words) -> None:
        """Keep records; a full disk ends the keeping, not the run."""
        if self.is_full or not self._has_room(len(places)):
            return
        rows = np.concatenate([words, self._sums(places, words)[:, None]], axis=1)
        try:
            # Not through the map: there a full disk would be a signal that ends the program.
            for place, row in zip(places.tolist(), rows, strict=True):
                self._file.seek(place * self._row * 4)
                self._file.write(row.tobytes())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise explain(error, self.path) from error
            self._stop(f"the disk of {self.path.parent} is nearly full")

    @property
    def bytes_used(self) -> int:
        """Room that the records take on the disk; none after they were deleted."""
        try:
            return disk_usage(self.path / "records.bin")
        except OSError:
            return 0

    @property
    def described(self) -> str:
        """Where it is and how full, for the user."""
        free, missing = shutil.disk_usage(self.path).free, self.identity.bytes - self.bytes_used
        words = f"{format_bytes(self.bytes_used)} of at most {format_bytes(self.identity.bytes)} in {self.path}"
        return words if free - RESERVE > missing else f"{words}, for which {format_bytes(free)} of disk are left"

    def _sums(self, places: Places, words: Words) -> Words:
        own = (places.astype(np.uint64) * np.uint64(2654435761) + np.uint64(self._key)).astype(np.uint32)
        sums: Words = (words * self._factors).sum(axis=1, dtype=np.uint32) + own
        sums[sums == 0] = 1  # zero is what a hole holds
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
        logger.info(f"{why}: no more knowledge is cached, the teacher stays live")


def damage(path: Path) -> str | None:
    """What is wrong with a store's files, or None; records that do not add up are merely asked for anew."""
    about, records = path / "identity.json", path / "records.bin"
    if not about.is_file() or not records.is_file():
        return "has no identity.json or no records.bin"
    try:
        values = json.loads(about.read_text())
        count, words = values["records"], values["words"]
        if not isinstance(count, int) or not isinstance(words, int):
            return "its identity does not say how many records there are"
        expected = count * (words + 1) * 4
        if path.name.rpartition("-")[2] != sha256(about.read_bytes()).hexdigest()[:12]:
            return "its identity is not the one it was made for"
        if records.stat().st_size != expected:
            return f"holds {records.stat().st_size} bytes instead of {expected}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return f"cannot be read: {error}"
    return None


def is_used(path: Path) -> bool:
    """Whether a process reads or fills the store in a folder."""
    return is_in_use(path / "records.bin")
