"""All runs of a home: found by id, `latest` or a unique prefix, and which of them taught which."""

import json
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_write, explain, flush_folder, make_folder
from tekapctl.store.run import MARK, STAMP_FORMAT, STAMP_LENGTH, Run, start_time

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""Of a run."""
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9._]+")
_NEW = ".new-"
_REMOVED = ".removed-"
_START_SECONDS = 30.0
"""Seconds to wait for other runs that start at the same time."""


class Runs:
    """All runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def start(self, label: str, files: Mapping[str, str]) -> Iterator[Run]:
        """Create a run with its first files, atomically and locked by this process.

        Its id consists of the time, the label and a few random letters. Ids sort by age: if the newest run is not older
        than the current second, its time plus one second is used.

        Raises:
            TekapctlError: The folder is not writable.
        """
        words = _NOT_IN_AN_ID.sub("-", label).strip("-.")[:120]
        with self._translating_errors():
            new, lock = self._new_folder()
            for name, text in files.items():
                atomic_write(new / name, text.encode())
            with self._all_runs():  # every run gets its own second
                name = f"{self._stamp()}-{words}-{secrets.token_hex(2)}"
                atomic_write(new / MARK, json.dumps({"run": name}).encode() + b"\n")
                run = Run(new.rename(self.folder / name))
            flush_folder(self.folder)
        try:
            yield run
        finally:
            lock.release()

    @contextmanager
    def _translating_errors(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            raise TekapctlError(f"{self.folder} is locked by another program.", "Try again.") from None
        except OSError as error:
            raise explain(error, self.folder) from None

    def _all_runs(self) -> FileLock:
        """The lock for adding runs."""
        return FileLock(self.folder.with_name(f".{self.folder.name}.lock"), timeout=_START_SECONDS)

    def _new_folder(self) -> tuple[Path, FileLock]:
        """A hidden folder for what will become a run, and its lock, which this process holds."""
        make_folder(self.folder)
        new = self.folder / f"{_NEW}{secrets.token_hex(8)}"
        lock = FileLock(new / ".lock", timeout=0)
        # No process may remove the folder as stale before it is locked.
        with self._all_runs():
            self._remove_stale()
            new.mkdir()
            lock.acquire()
        return new, lock

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A hidden folder in which whole runs are made, for `add`; it is deleted at the end, or later if that fails.

        Raises:
            TekapctlError: The folder is not writable.
        """
        with self._translating_errors():
            new, lock = self._new_folder()
        try:
            yield new
        finally:
            lock.release()
            shutil.rmtree(new, ignore_errors=True)

    def add(self, made: Path) -> Run:
        """Move a whole run, in a folder named by its id, from a `stage` to the runs.

        Raises:
            TekapctlError: There is a run of this id, or the folder is not writable.
        """
        target = self.folder / made.name
        with self._translating_errors():
            with self._all_runs():
                if target.exists():
                    raise TekapctlError(f"There is a run {made.name} already.", "Try again.")
                made.rename(target)
            flush_folder(self.folder)
        return Run(target)

    def _stamp(self) -> str:
        now = datetime.now().astimezone().strftime(STAMP_FORMAT)
        newest = max((run.id[:STAMP_LENGTH] for run in self.all() if run.is_original), default="")
        moment = start_time(newest)
        if newest < now or moment is None:
            return now
        try:
            return (moment + timedelta(seconds=1)).strftime(STAMP_FORMAT)
        except OverflowError:  # the clock was at the end of time
            return newest

    def _remove_stale(self) -> None:
        """Delete folders that dead processes left half created or half removed."""
        for removed in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)
        for begun in self.folder.glob(f"{_NEW}*"):
            with suppress(Timeout, OSError), FileLock(begun / ".lock", timeout=0):
                shutil.rmtree(begun)

    def all(self) -> list[Run]:
        """All runs, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.is_dir() and ID.fullmatch(path.name))
        return [Run(path) for path in sorted(found, key=lambda path: path.name)]

    def find(self, reference: str) -> Run:
        """The run that a user means: its id, a unique suffix such as `0440`, a unique prefix, or `latest`.

        Raises:
            UsageError: There is none, there are several, or the reference is not a valid id.
        """
        if not ID.fullmatch(reference):
            raise UsageError(f"{reference!r} is not a valid run id.", "`tekapctl runs list` lists the runs.")
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

    def select(self, references: Sequence[str], names: Sequence[str] = (), *, every: bool = False) -> list[Run]:
        """The runs that a user means, each once: as in `find`, and the finished ones with one of some names, or all.

        Raises:
            UsageError: A reference is not a run's.
        """
        found = [self.find(reference) for reference in references]
        if names or every:
            more = (run for run in self.all() if every or run.spec_table().get("name") in names)
            found += [run for run in more if run.status == "finished"]
        return list(dict.fromkeys(found))

    def latest(self, kind: Literal["teacher", "student"] | None = None) -> Run:
        """The newest run, of a kind if given, that was trained here; copies of runs and imported ones are skipped.

        Raises:
            UsageError: There is none.
        """
        others = False
        for run in reversed(self.all()):
            if kind in (None, run.kind()):
                if run.is_original:
                    return run
                others = True
        what = f"run of a {kind}" if kind else "run"
        where = " that was trained here; imported and copied runs are not `latest`" if others else " yet"
        raise UsageError(f"There is no {what}{where}.", "`tekapctl runs list` lists the runs.")

    def remove(self, run: Run) -> None:
        """Delete a run; if this is interrupted, it no longer appears in the list and the rest is deleted later.

        Raises:
            UsageError: It is running.
        """
        if run.status == "running":
            raise UsageError(f"The run {run.id} is running.", "Stop it first.")
        if run.path.is_symlink():
            run.path.unlink()  # the target of the link is not ours
            return
        try:
            removed = run.path.rename(self.folder / f"{_REMOVED}{secrets.token_hex(8)}")
            shutil.rmtree(removed)
        except OSError as error:
            raise explain(error, run.path) from None


def taught_by(run: Run, runs: Runs) -> list[Run]:
    """The runs whose teacher, or one of whose teachers, is a run."""
    return [other for other in runs.all() if other != run and any(_names(teacher, run) for teacher in other.teachers())]


def _names(teacher: str, run: Run) -> bool:
    """Whether a spec's teacher is a run, its best weights, or one of its files."""
    return teacher.partition(":")[0] == run.id or Path(teacher).parent == run.path.resolve()


def missing_teachers(run: Run, there: Collection[str]) -> list[str]:
    """The ids of runs that taught a run and are not among the ids that are there."""
    taught = (name.partition(":")[0] for name in run.teachers())
    return [name for name in taught if "/" not in name and start_time(name) is not None and name not in there]


def with_teachers(found: Sequence[Run], runs: Runs) -> list[Run]:
    """Runs with those that taught them, and so on; teachers that do not exist are left out."""
    known = {run.id: run for run in runs.all()}
    all_of_them = {run.id: run for run in found}
    left = list(found)
    while left:
        for name in missing_teachers(left.pop(), all_of_them):
            if name in known:
                all_of_them[name] = known[name]
                left.append(known[name])
    return list(all_of_them.values())
