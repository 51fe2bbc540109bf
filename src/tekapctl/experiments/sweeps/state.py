"""The state of each trial of a sweep, read from the runs' own folders."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tekapctl.errors import UsageError
from tekapctl.experiments import identity
from tekapctl.experiments.sweeps.folder import MARK, SweepFolder, lock_file
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.spec import StudentSpec, load_of_run
from tekapctl.store.atomic import sha256
from tekapctl.store.home import Home
from tekapctl.store.locks import is_locked
from tekapctl.store.run import Run
from tekapctl.store.runs import Runs
from tekapctl.train import trained

State = Literal["finished", "running", "interrupted", "failed", "queued", "waiting"]
_BEST = ("finished", "running", "interrupted", "failed")
"""If a trial has several runs, the first in this order counts; of equal ones the newest."""


@dataclass(frozen=True)
class Standing:
    """The state of a trial.

    Attributes:
        state: `queued` if submitted to a cluster, `waiting` if not started.
        run: The id of its run, if it has started.
        epoch: Completed epochs.
        top1: Top-1 accuracy after the last epoch (0 to 1) of a finished run.
        error: Why it failed or was interrupted.
        note: Why one of its runs does not count.
    """

    state: State
    run: str | None = None
    epoch: int = 0
    top1: float | None = None
    error: str | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Ledger:
    """Finds the runs of trials. Finished runs are read once."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._marks: dict[str, tuple[str | None, ...]] = {}
        self._finished: dict[str, Standing] = {}
        self._weights: dict[str, str | None] = {}

    def look(self, plan: Plan, queued: Iterable[str] = ()) -> dict[str, Standing]:
        """The state of each trial of a sweep, by digest."""
        runs = self._runs_of(plan.trials.keys())
        folder, queue = SweepFolder(self.home, plan.name), frozenset(queued)
        found: dict[str, Standing] = {}
        for digest, trial in plan.trials.items():
            standing = self.one(digest, trial, runs.get(digest, []))
            if standing.state not in ("finished", "running"):
                problem = folder.problem(digest)
                state = standing.state
                if is_locked(lock_file(self.home, digest)):
                    state, problem = "running", None
                elif state == "waiting" and problem is not None:
                    state = "failed"
                elif digest in queue:
                    state = "queued"
                standing = replace(standing, state=state, error=standing.error or problem)
            found[digest] = standing
        return found

    def find(self, digest: str, trial: Trial) -> Standing:
        """The state of one trial."""
        return self.one(digest, trial, self._runs_of([digest]).get(digest, []))

    def one(self, digest: str, trial: Trial, runs: Iterable[Run]) -> Standing:
        """The state of a trial with these runs, oldest first."""
        if digest in self._finished and (self.home.runs / str(self._finished[digest].run)).is_dir():
            return self._finished[digest]
        stale = None
        ranked: list[tuple[int, Standing]] = []
        for run in runs:
            found = run.status
            if found == "unknown":
                stale = f"{run.id} does not count: no permission to read it"
                continue
            if found == "damaged" and run.kind() is None:
                stale = f"{run.id} does not count: its spec cannot be read here"
                continue
            # A run whose summary is damaged resumes from its checkpoint, which writes the summary again.
            status: State = "interrupted" if found == "damaged" else found
            if status != "running" and (changed := self._changed(trial, run)):
                stale = f"{run.id} does not count: {changed}"
                continue
            ranked.append((_BEST.index(status), _standing(run, status)))
        if not ranked:
            return Standing("waiting", note=stale)
        best = min(rank for rank, _ in ranked)
        standing = [one for rank, one in ranked if rank == best][-1]
        if standing.state == "finished":
            self._finished[digest] = standing
        return standing

    def _runs_of(self, digests: Iterable[str]) -> dict[str, list[Run]]:
        """Runs by trial, oldest first."""
        wanted = frozenset(digests)
        found: dict[str, list[Run]] = {}
        for run in Runs(self.home.runs).all():
            kept = self._marks.get(run.id, ())
            if not kept:
                kept = (_marked(run),)
            if len(kept) == 1 and kept[0] not in wanted:
                kept = (kept[0], None if kept[0] is None else _renewed(run))
            self._marks[run.id] = kept
            for digest in wanted.intersection(kept):
                found.setdefault(str(digest), []).append(run)
        return found

    def _changed(self, trial: Trial, run: Run) -> str | None:
        """How a run's teachers have changed since it was trained; None if they have not."""
        if not isinstance(trial.spec, StudentSpec):
            return None
        try:
            spec = load_of_run(run.path)
        except UsageError:
            return "its spec cannot be read here"
        if not isinstance(spec, StudentSpec):
            return "its spec is not a student's"
        names = (trial.spec.teacher, *trial.spec.ensemble)
        for name, learned_from in zip(names, (spec.teacher_digest, *spec.ensemble_digests), strict=False):
            now = self.weights(trial, name)
            if now is not None and now != learned_from:
                return f"the weights of its teacher {name} have changed since"
        return None

    def weights(self, trial: Trial, name: str) -> str | None:
        """The SHA-256 of a teacher's current weights; None if they do not exist."""
        need = trial.requires.get(name)
        if need is not None:
            key = need.digest
            standing = self.find(key, need)
            if standing.state != "finished" or standing.run is None:
                return None
            name = standing.run
        key = f"{name} {trial.spec.data.name}"
        if key not in self._weights:
            self._weights[key] = self._find_weights(trial, name)
        return self._weights[key]

    def _find_weights(self, trial: Trial, name: str) -> str | None:
        try:
            reference = trained.find(self.home, name, data=trial.spec.data)
            if reference.is_library:
                arguments = trial.spec.teacher_args if isinstance(trial.spec, StudentSpec) else {}
                return trained.load(reference, arguments=arguments).digest
            return sha256(reference.path)
        except (UsageError, OSError):
            return None


def _standing(run: Run, status: State) -> Standing:
    summary = run.summary() or {}
    metrics = run.metrics() if status != "finished" else []
    epoch = summary.get("epochs", 0) if status == "finished" else metrics[-1].get("epoch", 0) if metrics else 0
    top1 = summary.get("last_top1") if status == "finished" else None
    error = summary.get("error") if status == "failed" else None
    return Standing(
        status,
        run.id,
        int(epoch),
        float(top1) if isinstance(top1, int | float) else None,
        None if error is None else str(error),
    )


def _marked(run: Run) -> str | None:
    """The trial of a run; None if it is not part of a sweep."""
    try:
        return str(json.loads((run.path / MARK).read_text(encoding="utf-8"))["trial"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _renewed(run: Run) -> str | None:
    """The trial of a run of an older version, whose spec had fewer fields."""
    try:
        kept = json.loads((run.path / MARK).read_text(encoding="utf-8"))
        return identity.digest(identity.renewed(kept))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        return None
