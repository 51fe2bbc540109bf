"""A sweep's folder: trial files, logs, problems and cluster jobs. Everything in it can be regenerated."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.spec import parse, to_dict
from tekapctl.store.atomic import as_json, atomic_write, make_folder, read_json
from tekapctl.store.home import Home

CLUSTERS = ("slurm", "local-jobs")
_JOB = re.compile(r"\d{1,18}(_\d{1,18})?")
MARK = "trial.json"
"""The file in a run's folder that identifies its trial."""


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder."""

    home: Home
    name: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.home.sweeps / self.name

    def trial_file(self, digest: str) -> Path:
        """The description of a trial for the process that runs it."""
        return self.path / "trials" / f"{digest}.json"

    def log(self, digest: str) -> Path:
        """The output of the process that runs a trial."""
        return self.path / "logs" / f"{digest}.log"

    def problem_file(self, digest: str) -> Path:
        """Why a trial failed before it had a run."""
        return self.path / "problems" / f"{digest}.txt"

    def write_trials(self, plan: Plan) -> None:
        """Write all trial files.

        Raises:
            TekapctlError: The folder cannot be written.
        """
        for digest, trial in plan.trials.items():
            path, content = self.trial_file(digest), as_json(described(trial))
            if not path.is_file() or path.read_bytes() != content:
                atomic_write(path, content)
        for name in ("logs", "problems"):
            make_folder(self.path / name)

    def problem(self, digest: str) -> str | None:
        """Why a trial failed before it had a run; None if it did not."""
        try:
            return self.problem_file(digest).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def write_problem(self, digest: str, text: str) -> None:
        """Record why a trial failed."""
        atomic_write(self.problem_file(digest), f"{text}\n".encode())

    def jobs(self) -> dict[str, dict[str, str]]:
        """The cluster's jobs, by trial: `id` and `cluster`."""
        return {
            digest: job
            for digest, job in read_json(self.path / "jobs.json").items()
            if isinstance(job, dict)
            and isinstance(job.get("id"), str)
            and _JOB.fullmatch(job["id"])
            and job.get("cluster") in CLUSTERS
        }

    def add_jobs(self, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Record jobs of the cluster."""
        with FileLock(make_folder(self.path) / ".jobs.lock"):
            atomic_write(self.path / "jobs.json", as_json({**self.jobs(), **jobs}))


class NotYetError(TekapctlError):
    """A trial cannot run yet."""

    exit_code = 75


def lock_file(home: Home, digest: str) -> Path:
    """The lock of a trial, shared by all sweeps."""
    # No sweep name starts with a dot.
    return home.sweeps / ".locks" / f"{digest}.lock"


@contextmanager
def lock(home: Home, digest: str, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a trial, so that no other process runs it.

    Raises:
        NotYetError: Another process holds it.
    """
    path = lock_file(home, digest)
    make_folder(path.parent)
    try:
        # Checking whether a lock is held takes it for an instant.
        with FileLock(path, timeout=-1 if wait else 0.5, poll_interval=0.1):
            yield
    except Timeout:
        raise NotYetError(
            "Another process is training this run already.", "Wait until it ends, then repeat the command."
        ) from None


def described(trial: Trial) -> dict[str, Any]:
    """A trial as plain values, for `restored`."""
    needs = {name: described(need) for name, need in trial.requires.items()}
    return {"label": trial.label, "spec": to_dict(trial.spec), "needs": needs}


def restored(values: Mapping[str, Any]) -> Trial:
    """The inverse of `described`.

    Raises:
        UsageError: Its spec is not valid.
    """
    label = str(values["label"])
    return Trial(label, label, parse(values["spec"]), {name: restored(need) for name, need in values["needs"].items()})


def read_trial(path: Path) -> Trial:
    """Read a trial file.

    Raises:
        UsageError: The file is damaged.
    """
    try:
        return restored(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is not a trial file: {error}.", "Start the sweep again.") from None
