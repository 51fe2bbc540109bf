"""Runs on disk: a folder each, found by id, `latest` or a unique prefix."""

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.files import explain, flush_folder, make_folder, sweep, write_whole
from tekapctl.store.held import is_held

Status = Literal["running", "finished", "failed", "interrupted"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_STAMP = re.compile(r"\d{8}-\d{6}")
_TIME = "%Y%m%d-%H%M%S"
_NEW = ".new-"
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
        # A failed run that is resumed keeps its summary until training begins; hence the lock comes before it.
        if self._ended() == "finished":
            return "finished"
        if is_held(self.path / ".lock"):
            return "running"
        # Between the first look and the second the run may have ended.
        return self._ended() or "interrupted"

    def _ended(self) -> Literal["finished", "failed"] | None:
        summary = self.summary()
        if summary is None:
            return None
        return "failed" if summary.get("status") == "failed" else "finished"

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

    def write_text(self, name: str, text: str) -> None:
        """Write one of the run's files whole."""
        self.check_there()
        write_whole(self.path / name, text.encode())

    def append_metrics(self, metrics: Mapping[str, float | int]) -> None:
        """Add a line to the run's metrics."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All metrics, epoch by epoch; a line that was cut off by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return []
        found = []
        for line in lines:
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
        try:
            found = json.loads((self.path / _PROGRESS).read_text(encoding="utf-8"), parse_constant=_refuse)
        except (OSError, ValueError, RecursionError):
            return {}
        return {name: value for name, value in found.items() if _is_number(value)} if isinstance(found, dict) else {}

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write what came of the run, which ends it."""
        self.write_text("summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """What came of the run, if it has ended."""
        try:
            found = json.loads((self.path / "summary.json").read_text(encoding="utf-8"), parse_constant=_refuse)
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


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
                write_whole(new / name, text.encode())
            with all_runs:  # no two take one second
                run = Run(new.rename(self.folder / f"{self._stamp()}-{words}-{secrets.token_hex(2)}"))
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
        newest = max((found[0] for run in self.all() if (found := _STAMP.match(run.id))), default="")
        if newest < now:
            return now
        try:
            return (datetime.strptime(newest, _TIME) + timedelta(seconds=1)).strftime(_TIME)
        except (ValueError, OverflowError):  # a folder that was named by hand
            return max(now, newest)

    def _sweep(self) -> None:
        """Away with what dead processes had begun."""
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
        """The run that a user means: its id, a unique prefix of it, or `latest`.

        Raises:
            UsageError: There is none, there are several, or the reference is no name of a run.
        """
        if not _ID.fullmatch(reference):
            raise UsageError(f"{reference!r} is no run's id.", "`tekapctl runs list` lists the runs.")
        runs = self.all()
        if reference == "latest" and runs:
            return runs[-1]
        matches = [run for run in runs if run.id == reference] or [run for run in runs if run.id.startswith(reference)]
        if not matches:
            raise UsageError(f"There is no run {reference!r}.", "`tekapctl runs list` lists the runs.")
        if len(matches) > 1:
            shown = ", ".join(run.id for run in matches[:5])
            raise UsageError(f"{len(matches)} runs begin with {reference!r}: {shown}.", "Give more of the id.")
        return matches[0]

    def remove(self, run: Run) -> None:
        """Delete a run.

        Raises:
            UsageError: It is running.
        """
        if run.status == "running":
            raise UsageError(f"The run {run.id} is running.", "Stop it first.")
        shutil.rmtree(run.path)
