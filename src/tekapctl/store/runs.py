"""Runs on disk: a folder each, found by id, `latest` or a unique prefix."""

import hashlib
import json
import os
import re
import secrets
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_write, explain, flush_folder, make_folder, sha256, sweep
from tekapctl.store.locks import is_locked
from tekapctl.store.summary import problem_of

Status = Literal["running", "finished", "failed", "interrupted", "damaged", "unknown"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_STAMP = re.compile(r"\d{8}-\d{6}")
_STAMP_LENGTH = 15
_MOST_BYTES = 2**26
"""Of a run's JSON file that is read."""
_TIME = "%Y%m%d-%H%M%S"
_NEW = ".new-"
_REMOVED = ".removed-"
_MARK = "run.json"
_CHECKSUMS = "checksums.json"
_MOMENT = 0.5
"""Seconds for which a lock is tried: whoever looks at the run's status may hold it for an instant."""
_PATIENCE = 30.0
"""Seconds to wait for other runs that begin at the same time."""
_PROGRESS = "progress.json"
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._]+")


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        path: The folder, whose name is the run's id.
    """

    path: Path

    @property
    def id(self) -> str:
        """What the run is found by."""
        return self.path.name

    @property
    def weights(self) -> Path:
        """The last epoch's weights, once the run is finished."""
        return self.path / "weights.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Training states."""
        return self.path / "checkpoints"

    @property
    def status(self) -> Status:
        """Running as long as a process holds the run's lock and the run has not finished; asking disturbs nobody."""
        if not os.access(self.path, os.R_OK | os.X_OK):
            return "unknown"
        # A failed run that is resumed keeps its summary until training begins; hence the lock comes before it.
        if self._ended() == "finished":
            return "finished" if self.kind() else "damaged"
        lock = self.path / ".lock"
        if os.path.lexists(lock) and not os.access(lock, os.R_OK):
            return "unknown"
        if is_locked(lock):
            return "running"
        # Between the first look and the second the run may have ended.
        return self._ended() or "interrupted"

    def _ended(self) -> Literal["finished", "failed", "damaged"] | None:
        if self.summary_problem() is not None:
            return "damaged"
        summary = self.summary()
        if summary is None:
            return None
        return "failed" if summary.get("status") == "failed" else "finished"

    @property
    def is_original(self) -> bool:
        """Whether the program made this folder under this name; a copy or a renamed folder is no such run."""
        if _moment(self.id) is None:
            return False
        mark = self._read_table(_MARK)
        return self.kind() is not None if mark is None else mark.get("run") == self.id

    def kind(self) -> str | None:
        """`teacher` or `student`, as its spec says; None if the spec is damaged."""
        try:
            kind = tomllib.loads(self._read_text("spec.toml") or "").get("kind")
        except (ValueError, RecursionError):
            return None
        return kind if kind in ("teacher", "student") else None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run; nobody else can. Parts of files that a dead process left are swept away.

        Raises:
            TekapctlError: Another process holds it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=_MOMENT, poll_interval=0.01):
                sweep(self.path)
                sweep(self.checkpoints)
                yield
        except Timeout:
            raise TekapctlError(f"Another process works on the run {self.id}.", "Wait for it, or stop it.") from None

    def check_there(self) -> None:
        """See to it that the run's folder is still the run's.

        Raises:
            TekapctlError: Somebody has deleted it.
        """
        if not (self.path / "spec.toml").is_file():
            raise TekapctlError(
                f"The folder of the run {self.id} was deleted while it ran.", "Start it again; nothing of it is left."
            )

    def write_weights(self, name: str, content: bytes) -> None:
        """Write a file of weights whole, and its checksum before it.

        The checksum of the file that it replaces stays valid until the next one, so that a crash between the two
        leaves no run that looks damaged.
        """
        self.check_there()
        known = self._checksums()
        digest = hashlib.sha256(content).hexdigest()
        known[name] = [digest, *(old for old in known.get(name, [])[:1] if old != digest)]
        self.write_text(_CHECKSUMS, json.dumps(known, indent=2, sort_keys=True) + "\n")
        atomic_write(self.path / name, content)

    def check_weights(self, path: Path, digest: str | None = None) -> None:
        """Hold a file of the run's weights to the checksum that was written with it.

        Args:
            path: The file.
            digest: Its SHA-256, where it is known already.

        Raises:
            UsageError: It is another file than was written.
        """
        if self.has_damaged_checksums:
            raise UsageError(
                f"The checksums of the run {self.id} are damaged, so that its weights cannot be checked.",
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
        """Whether there are checksums that cannot be read, so that weights are not compared with theirs."""
        if not os.path.lexists(self.path / _CHECKSUMS):
            return False
        found = self._read_table(_CHECKSUMS)
        return found is None or not all(map(_are_texts, found.values()))

    @property
    def checksummed(self) -> list[str]:
        """The names of the files that have a checksum."""
        return list(self._checksums())

    def _checksums(self) -> dict[str, list[str]]:
        found = self._read_table(_CHECKSUMS) or {}
        return {name: [str(value) for value in values] for name, values in found.items() if isinstance(values, list)}

    def write_text(self, name: str, text: str) -> None:
        """Write one of the run's files whole."""
        self.check_there()
        atomic_write(self.path / name, text.encode())

    def append_metrics(self, metrics: Mapping[str, float | int]) -> None:
        """Add a line to the run's metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics, epoch by epoch; a line that was cut off by a crash is left out."""
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
        """Write all metrics anew; the training state has them too, so none are lost."""
        self.write_text("metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))

    def write_progress(self, progress: Mapping[str, float | int]) -> None:
        """Note how far the run is within its epoch: for those who watch, nothing that the run needs.

        Raises:
            OSError: It could not be written.
        """
        # Not flushed to the disk, unlike all else: it is written often, and nothing is lost with it.
        part = self.path / f".{_PROGRESS}.0.part"
        part.write_text(json.dumps(progress), encoding="utf-8")
        part.replace(self.path / _PROGRESS)

    def progress(self) -> dict[str, float | int]:
        """What was noted last; empty if nothing was."""
        return {name: value for name, value in (self._read_table(_PROGRESS) or {}).items() if _is_number(value)}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write what came of the run, which ends it."""
        self.write_text("summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The results of the run, if it has ended and they can be read."""
        return None if self.summary_problem() is not None else self._read_table("summary.json")

    def summary_problem(self) -> str | None:
        """What is wrong with the summary; None if nothing is, or if there is none."""
        if not os.path.lexists(self.path / "summary.json"):
            return None
        found = self._read_table("summary.json")
        if found is None:
            return "it cannot be read"
        return None if found.get("status") == "failed" else problem_of(found)

    def _read_table(self, name: str) -> dict[str, Any] | None:
        """The table in one of the run's JSON files; None if it is missing or damaged."""
        try:
            found = json.loads(self._read_text(name) or "", parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _read_text(self, name: str) -> str | None:
        """The text in one of the run's files; None if it is missing, no regular file, too large or no text."""
        path = self.path / name
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                return None
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None


def _moment(name: str) -> datetime | None:
    """The time with which a run's id begins; None of a name that begins with no time."""
    try:
        return datetime.strptime(name[:_STAMP_LENGTH], _TIME) if _STAMP.match(name) else None
    except ValueError:
        return None


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # type: ignore[arg-type]


def _refuse(constant: str) -> None:
    """JSON has no numbers that are not finite."""
    raise ValueError(f"{constant} is no number")


class Runs:
    """All runs of a home.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def start(self, label: str, files: Mapping[str, str]) -> Iterator[Run]:
        """A new run with its first files, held by this process; it appears whole.

        Its id is made of the time, what it is, and a few random letters. Ids sort by age: where the newest run's time
        is not before now, since the clock has gone back or that run began a moment ago, the second after it is taken.

        Args:
            label: What it is.
            files: Texts by name.

        Raises:
            TekapctlError: The folder cannot be written.
        """
        make_folder(self.folder)
        words = _NOT_IN_AN_ID.sub("-", label).strip("-.")[:120]
        new = self.folder / f"{_NEW}{secrets.token_hex(8)}"
        lock = FileLock(new / ".lock", timeout=0)
        all_runs = FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=_PATIENCE)
        try:
            # Whoever sweeps must not meet a folder between its making and its lock.
            with all_runs:
                self._sweep()
                new.mkdir()
                lock.acquire()
            for name, text in files.items():
                atomic_write(new / name, text.encode())
            with all_runs:  # no two take one second
                name = f"{self._stamp()}-{words}-{secrets.token_hex(2)}"
                atomic_write(new / _MARK, json.dumps({"run": name}).encode() + b"\n")
                run = Run(new.rename(self.folder / name))
            flush_folder(self.folder)
        except Timeout:
            raise TekapctlError(f"{self.folder} is locked by another program.", "Try again.") from None
        except OSError as error:
            raise explain(error, self.folder) from None
        try:
            yield run
        finally:
            lock.release()

    def _stamp(self) -> str:
        now = datetime.now().astimezone().strftime(_TIME)
        newest = max((run.id[:_STAMP_LENGTH] for run in self.all() if run.is_original), default="")
        moment = _moment(newest)
        if newest < now or moment is None:
            return now
        try:
            return (moment + timedelta(seconds=1)).strftime(_TIME)
        except OverflowError:  # the clock was at the end of time
            return newest

    def _sweep(self) -> None:
        """Delete what dead processes had begun to make or to remove."""
        for removed in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)
        for begun in self.folder.glob(f"{_NEW}*"):
            with suppress(Timeout, OSError), FileLock(begun / ".lock", timeout=0):
                shutil.rmtree(begun)

    def all(self) -> list[Run]:
        """All runs, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.is_dir() and _ID.fullmatch(path.name))
        return [Run(path) for path in sorted(found, key=lambda path: path.name)]

    def find(self, reference: str) -> Run:
        """The run that a user means: its id, a unique suffix such as `0440`, a unique prefix, or `latest`.

        Raises:
            UsageError: There is none, there are several, or the reference is no name of a run.
        """
        if not _ID.fullmatch(reference):
            raise UsageError(f"{reference!r} is no run's id.", "`tekapctl runs list` lists the runs.")
        runs = self.all()
        if reference == "latest":
            return self.latest()
        suffixed = [run for run in runs if run.id.endswith(f"-{reference}")]
        matches = (
            [run for run in runs if run.id == reference]
            or (suffixed if len(suffixed) == 1 else [])
            or [run for run in runs if run.id.startswith(reference)]
            or suffixed
        )
        if not matches:
            raise UsageError(f"There is no run {reference!r}.", "`tekapctl runs list` lists the runs.")
        if len(matches) > 1:
            shown = ", ".join(run.id for run in matches[:5])
            raise UsageError(f"{reference!r} matches {len(matches)} runs: {shown}.", "Give more of the id.")
        return matches[0]

    def latest(self, kind: Literal["teacher", "student"] | None = None) -> Run:
        """The newest run that the program made; copies of runs are passed over.

        Args:
            kind: Only a run of this kind.

        Raises:
            UsageError: There is none.
        """
        for run in reversed(self.all()):
            if run.is_original and kind in (None, run.kind()):
                return run
        what = f"run of a {kind}" if kind else "run"
        raise UsageError(f"There is no {what} yet.", "`tekapctl runs list` lists the runs.")

    def remove(self, run: Run) -> None:
        """Delete a run; if this is interrupted, the run is gone from the list, and the rest is deleted later.

        Raises:
            UsageError: It is running.
        """
        if run.status == "running":
            raise UsageError(f"The run {run.id} is running.", "Stop it first.")
        if run.path.is_symlink():
            run.path.unlink()  # the folder elsewhere is not ours
            return
        try:
            removed = run.path.rename(self.folder / f"{_REMOVED}{secrets.token_hex(8)}")
            shutil.rmtree(removed)
        except OSError as error:
            raise explain(error, run.path) from None
