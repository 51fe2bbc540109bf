"""The folder of a run: its spec, status, metrics, summary and checksummed weights."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_write, remove_stale, sha256
from tekapctl.store.locks import is_locked
from tekapctl.store.summary import problem_of

Status = Literal["running", "finished", "failed", "interrupted", "damaged", "unknown"]
_STAMP = re.compile(r"\d{8}-\d{6}")
STAMP_LENGTH = 15
_MAX_BYTES = 2**26
"""Larger files of a run are not read."""
STAMP_FORMAT = "%Y%m%d-%H%M%S"
MARK = "run.json"
IMPORTED = "imported.json"
"""In the folder of a run that was imported: what its bundle did not have."""
_CHECKSUMS = "checksums.json"
_LOCK_SECONDS = 0.5
"""Seconds to wait for a run's lock, which a check of its status may hold for an instant."""
_PROGRESS = "progress.json"


WEIGHTS = {"last": "weights.safetensors", "best": "best.safetensors", "raw": "raw.safetensors"}
"""The weights that a run may have: of its last and its best epoch, and where these are averages, the last raw ones."""


@dataclass(frozen=True)
class Run:
    """The folder of a run; its name is the run's id."""

    path: Path

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.path.name

    @property
    def weights(self) -> Path:
        """The weights of the last epoch, once the run is finished."""
        return self.path / WEIGHTS["last"]

    @property
    def checkpoints(self) -> Path:
        """Folder of the training states."""
        return self.path / "checkpoints"

    @property
    def status(self) -> Status:
        """`running` while a process holds the run's lock and the run has not finished; the check disturbs nothing."""
        if not os.access(self.path, os.R_OK | os.X_OK):
            return "unknown"
        # A failed run that is resumed keeps its summary until training starts, so the lock is checked first.
        if self._ended() == "finished":
            return "finished" if self.kind() else "damaged"
        lock = self.path / ".lock"
        if os.path.lexists(lock) and not os.access(lock, os.R_OK):
            return "unknown"
        if is_locked(lock):
            return "running"
        # The run may have ended since the first check.
        return self._ended() or "interrupted"

    def _ended(self) -> Literal["finished", "failed", "damaged"] | None:
        summary, problem = self._read_summary()
        if summary is None:
            return None if problem is None else "damaged"
        return "failed" if summary.get("status") == "failed" else "finished"

    @property
    def is_original(self) -> bool:
        """Whether the program created this folder here; copies, renamed folders and imported runs are not original."""
        if start_time(self.id) is None or os.path.lexists(self.path / IMPORTED):
            return False
        mark = self._read_table(MARK)
        return self.kind() is not None if mark is None else mark.get("run") == self.id

    def kind(self) -> str | None:
        """`teacher` or `student`, from its spec; None if the spec is damaged."""
        kind = self.spec_table().get("kind")
        return kind if kind in ("teacher", "student") else None

    def spec_table(self) -> dict[str, Any]:
        """Its spec as plain TOML, which needs no PyTorch but is not checked; empty if it is damaged."""
        try:
            return tomllib.loads(self._read_text("spec.toml") or "")
        except (ValueError, RecursionError):
            return {}

    def teachers(self) -> list[str]:
        """The names of its teachers, as its spec has them: ids of runs, files, or networks."""
        spec = self.spec_table()
        ensemble = spec.get("ensemble")
        names = [spec.get("teacher"), *(ensemble if isinstance(ensemble, list) else ())]
        return [name for name in names if isinstance(name, str)]

    def environment(self) -> dict[str, Any]:
        """What it ran on; empty if that is missing or damaged."""
        return self._read_table("environment.json") or {}

    @property
    def left_out(self) -> frozenset[str]:
        """The weights that were left out of the bundle from which the run was imported."""
        names = (self._read_table(IMPORTED) or {}).get("left_out")
        return frozenset(map(str, names)) if isinstance(names, list) else frozenset()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run for this process, and remove temporary files of dead processes.

        Raises:
            TekapctlError: Another process holds it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=_LOCK_SECONDS, poll_interval=0.01):
                remove_stale(self.path)
                remove_stale(self.checkpoints)
                yield
        except Timeout:
            raise TekapctlError(f"Another process is using the run {self.id}.", "Wait for it, or stop it.") from None

    def check_there(self) -> None:
        """Check that the run's folder still exists.

        Raises:
            TekapctlError: It was deleted.
        """
        if not (self.path / "spec.toml").is_file():
            raise TekapctlError(f"The folder of the run {self.id} was deleted while it ran.", "Start it again.")

    def write_weights(self, name: str, content: bytes) -> None:
        """Write weights atomically, and their checksum before them; the replaced file's stays valid until then."""
        self.check_there()
        known = self._checksums()
        digest = hashlib.sha256(content).hexdigest()
        known[name] = [digest, *(old for old in known.get(name, [])[:1] if old != digest)]
        self.write_text(_CHECKSUMS, json.dumps(known, indent=2, sort_keys=True) + "\n")
        self._write(name, content)

    def check_weights(self, path: Path, digest: str | None = None) -> None:
        """Compare a file of weights, or its SHA-256 if that is known, with the checksum that was written with it.

        Raises:
            UsageError: The checksums differ or are damaged.
        """
        if self.has_damaged_checksums:
            raise UsageError(
                f"The checksums of the run {self.id} are damaged, so its weights cannot be checked.",
                f"Remove {self.path / _CHECKSUMS} to use them unchecked.",
            )
        known = self._checksums().get(path.name)
        if known and (digest or sha256(path)) not in known:
            raise UsageError(
                f"The weights in {path} are damaged: their checksum is not the one that was written with them.",
                f"Train the run again; `tekapctl runs verify {self.id}` checks all of its files.",
            )

    @property
    def has_damaged_checksums(self) -> bool:
        """Whether the checksums cannot be read."""
        if not os.path.lexists(self.path / _CHECKSUMS):
            return False
        found = self._read_table(_CHECKSUMS)
        return found is None or not all(map(_are_texts, found.values()))

    @property
    def checksummed(self) -> list[str]:
        """The names of the files with a checksum."""
        return list(self._checksums())

    def _checksums(self) -> dict[str, list[str]]:
        found = self._read_table(_CHECKSUMS) or {}
        return {name: [str(value) for value in values] for name, values in found.items() if isinstance(values, list)}

    def write_text(self, name: str, text: str) -> None:
        """Write one of the run's files atomically."""
        self._write(name, text.encode())

    def _write(self, name: str, content: bytes) -> None:
        self.check_there()
        try:
            atomic_write(self.path / name, content, make_folder=False)
        except TekapctlError:
            self.check_there()  # it may have been deleted meanwhile
            raise

    def append_metrics(self, metrics: Mapping[str, float | int]) -> None:
        """Append a line to the run's metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The metrics of all epochs; a line that was cut off by a crash is skipped."""
        found = []
        for line in (self._read_text("metrics.jsonl") or "").splitlines():
            try:
                entry = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and all(map(_is_number, entry.values())):
                found.append(entry)
        return found

    def write_metrics(self, history: Sequence[Mapping[str, float | int]]) -> None:
        """Rewrite all metrics, which the training state has too."""
        self.write_text("metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))

    def write_progress(self, progress: Mapping[str, float | int]) -> None:
        """Write the progress within the epoch, for `tekapctl watch`.

        Raises:
            OSError: It could not be written.
        """
        # Not flushed to disk: it is written often, and the run does not need it.
        part = self.path / f".{_PROGRESS}.0.part"
        part.write_text(json.dumps(progress), encoding="utf-8")
        part.replace(self.path / _PROGRESS)

    def progress(self) -> dict[str, float | int]:
        """The last progress that was written; empty if there is none."""
        return {name: value for name, value in (self._read_table(_PROGRESS) or {}).items() if _is_number(value)}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the results, which ends the run."""
        self.write_text("summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The results of the run, if it has ended and its summary is valid."""
        return self._read_summary()[0]

    def summary_problem(self) -> str | None:
        """What is wrong with the summary; None if it is valid or missing."""
        return self._read_summary()[1]

    def _read_summary(self) -> tuple[dict[str, Any] | None, str | None]:
        if not os.path.lexists(self.path / "summary.json"):
            return None, None
        found = self._read_table("summary.json")
        if found is None:
            return None, "it cannot be read"
        problem = None if found.get("status") == "failed" else problem_of(found)
        return (None, problem) if problem else (found, None)

    def _read_table(self, name: str) -> dict[str, Any] | None:
        """The object in one of the run's JSON files; None if it is missing or damaged."""
        try:
            found = json.loads(self._read_text(name) or "", parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _read_text(self, name: str) -> str | None:
        """The text of one of the run's files; None if it is missing, not a regular file, too large or not UTF-8."""
        path = self.path / name
        try:
            if not path.is_file() or path.stat().st_size > _MAX_BYTES:
                return None
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None


def start_time(name: str) -> datetime | None:
    """The time at the start of a run's id, or None."""
    try:
        return datetime.strptime(name[:STAMP_LENGTH], STAMP_FORMAT) if _STAMP.match(name) else None
    except ValueError:
        return None


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]


def _refuse(constant: str) -> None:
    """Refuse NaN and infinity, which are not JSON."""
    raise ValueError(f"{constant} is not a number")
