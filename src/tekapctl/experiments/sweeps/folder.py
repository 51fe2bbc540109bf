"""What a sweep keeps beside its runs: nothing that cannot be found or made again."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.experiments.sweeps.identity import digest
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.spec import parse, to_dict
from tekapctl.store.atomic import atomic_write, make_folder
from tekapctl.store.home import Home

CLUSTERS = ("slurm", "local-jobs")
_JOB = re.compile(r"\d{1,18}(_\d{1,18})?")
MARK = "trial.json"
"""The file in a run's folder that says which trial it is."""


@dataclass(frozen=True)
class SweepFolder:
    """A sweep's folder.

    Attributes:
        home: Where runs are.
        name: The sweep's name.
    """

    home: Home
    name: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.home.sweeps / self.name

    def trial_file(self, digest: str) -> Path:
        """Where a trial is described for the process that carries it out."""
        return self.path / "trials" / f"{digest}.json"

    def log(self, digest: str) -> Path:
        """What the process that carries out a trial writes."""
        return self.path / "logs" / f"{digest}.log"

    def problem_file(self, digest: str) -> Path:
        """Why a trial came to nothing before there was a run that could say it."""
        return self.path / "problems" / f"{digest}.txt"

    @property
    def jobs_file(self) -> Path:
        """The cluster's jobs, by trial."""
        return self.path / "jobs.json"

    def write_trials(self, plan: Plan) -> None:
        """Describe all trials for the processes that carry them out.

        Raises:
            TekapctlError: The folder cannot be written.
        """
        for key, trial in plan.trials.items():
            path, text = self.trial_file(key), json.dumps(described(trial), indent=2) + "\n"
            if not path.is_file() or path.read_bytes() != text.encode():
                atomic_write(path, text.encode())
        for path in (self.path / "logs", self.path / "problems"):
            make_folder(path)

    def problem(self, digest: str) -> str | None:
        """Why a trial came to nothing before there was a run, if it did."""
        try:
            return self.problem_file(digest).read_text(encoding="utf-8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def write_problem(self, digest: str, text: str) -> None:
        """Note why a trial came to nothing."""
        atomic_write(self.problem_file(digest), f"{text}\n".encode())

    def jobs(self) -> dict[str, dict[str, str]]:
        """The cluster's jobs, by trial: `id` and `cluster`."""
        try:
            found = json.loads(self.jobs_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        jobs = found.items() if isinstance(found, dict) else ()
        return {
            digest: job
            for digest, job in jobs
            if isinstance(job, dict)
            and isinstance(job.get("id"), str)
            and _JOB.fullmatch(job["id"])
            and job.get("cluster") in CLUSTERS
        }

    def add_jobs(self, jobs: Mapping[str, Mapping[str, str]]) -> None:
        """Note jobs of the cluster."""
        with FileLock(make_folder(self.path) / ".jobs.lock"):
            atomic_write(self.jobs_file, (json.dumps({**self.jobs(), **jobs}, indent=2) + "\n").encode())


class NotYetError(TekapctlError):
    """A trial cannot be carried out yet; nothing is wrong with it."""

    exit_code = 75


def lock_file(home: Home, digest: str) -> Path:
    """What the process holds that carries out a trial, whichever sweep it is of."""
    # A dot: no sweep can have this name.
    return home.sweeps / ".locks" / f"{digest}.lock"


@contextmanager
def lock(home: Home, digest: str, *, wait: bool) -> Iterator[None]:
    """Hold a trial; nobody else carries it out then.

    Args:
        home: Where runs are.
        digest: The trial's.
        wait: Wait for another process that holds it.

    Raises:
        NotYetError: Another process holds it.
    """
    path = lock_file(home, digest)
    make_folder(path.parent)
    try:
        # A look at who holds it may meet this for an instant.
        with FileLock(path, timeout=-1 if wait else 0.5, poll_interval=0.1):
            yield
    except Timeout:
        raise NotYetError("Another process carries out this trial.", "Wait for it.") from None


def described(trial: Trial) -> dict[str, Any]:
    """A trial as plain values; `restored` gives it back."""
    return {
        "label": trial.label,
        "spec": to_dict(trial.spec),
        "needs": {name: described(need) for name, need in trial.requires.items()},
    }


def restored(values: Mapping[str, Any]) -> Trial:
    """The trial that `described` has described.

    Raises:
        UsageError: Its spec is not valid.
    """
    label = str(values["label"])
    return Trial(label, label, parse(values["spec"]), {name: restored(need) for name, need in values["needs"].items()})


def read_trial(path: Path) -> Trial:
    """The trial that a file describes.

    Raises:
        UsageError: It describes none.
    """
    try:
        return restored(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} describes no trial: {error}.", "Start the sweep again.") from None


def mark(trial: Trial) -> str:
    """What a run's folder says of the trial that it is."""
    what = trial.identity
    return json.dumps({"trial": digest(what), "label": trial.label, **what}, indent=2) + "\n"
