"""The state of each trial of a sweep, read from the runs' own folders, and the table of a sweep."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tekapctl.errors import UsageError
from tekapctl.experiments import identity
from tekapctl.experiments.comparison.groups import Group, read_finished
from tekapctl.experiments.comparison.statistics import Summary
from tekapctl.experiments.sweeps.folder import MARK, SweepFolder, lock_file
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.spec import StudentSpec, load_of_run
from tekapctl.store.atomic import read_json, sha256
from tekapctl.store.home import Home
from tekapctl.store.locks import is_locked
from tekapctl.store.run import Run, Status
from tekapctl.store.runs import Runs
from tekapctl.train import references, trained

logger = logging.getLogger(__name__)

State = Literal["finished", "running", "interrupted", "failed", "queued", "waiting"]
_BEST = ("finished", "running", "interrupted", "failed")
"""If a trial has several runs, the first in this order counts; of equal ones the newest."""


@dataclass(frozen=True)
class Standing:
    """The state of a trial: `queued` if submitted to a cluster, `waiting` if not started.

    The accuracies (0 to 1) of a finished run are those after the last epoch, on the test and on the validation images.
    It has `diverged` if it failed because its loss or its outputs were no longer finite. `note` says why one of its
    runs does not count.
    """

    state: State
    run: str | None = None
    epoch: int = 0
    top1: float | None = None
    val_top1: float | None = None
    error: str | None = None
    diverged: bool = False
    note: str | None = None


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
            standing = self.one(trial, runs.get(digest, []))
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

    def find(self, trial: Trial) -> Standing:
        """The state of one trial."""
        return self.one(trial, self._runs_of([trial.digest]).get(trial.digest, []))

    def one(self, trial: Trial, runs: Iterable[Run]) -> Standing:
        """The state of a trial with these runs, oldest first."""
        known = self._finished.get(trial.digest)
        if known is not None and (self.home.runs / str(known.run)).is_dir():
            return known
        best, note = None, None
        for run in runs:
            status = run.status
            if (objection := self._objection(trial, run, status)) is not None:
                note = f"{run.id} does not count: {objection}"
                continue
            # A run whose summary is damaged resumes from its checkpoint, which writes the summary again.
            standing = _standing(run, "interrupted" if status == "damaged" or status == "unknown" else status)
            if best is None or _BEST.index(standing.state) <= _BEST.index(best.state):
                best = standing
        if best is None:
            return Standing("waiting", note=note)
        if best.state == "finished":
            self._finished[trial.digest] = best
        return best

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

    def _objection(self, trial: Trial, run: Run, status: Status) -> str | None:
        """Why a run does not count; None if it does."""
        if status == "unknown":
            return "no permission to read it"
        if status == "damaged" and run.kind() is None:
            return "its spec cannot be read here"
        if status == "running" or not isinstance(trial.spec, StudentSpec):
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
            standing = self.find(need)
            if standing.state != "finished" or standing.run is None:
                return None
            name = standing.run
        # Of a network's name, the images say which run it means.
        key = repr((name, trial.spec.data, getattr(trial.spec, "teacher_args", {})))
        if key not in self._weights:
            self._weights[key] = self._find_weights(trial, name)
        return self._weights[key]

    def _find_weights(self, trial: Trial, name: str) -> str | None:
        try:
            reference = references.find(self.home, name, data=trial.spec.data, kind="teacher")
            if reference.is_library:
                arguments = trial.spec.teacher_args if isinstance(trial.spec, StudentSpec) else {}
                return trained.load(reference, arguments=arguments).digest
            return sha256(reference.path)
        except (UsageError, OSError):
            return None


def _standing(run: Run, status: State) -> Standing:
    summary = run.summary() or {}
    if status == "finished":
        reached = (summary.get(name) for name in ("last_top1", "last_val_top1"))
        top1, val_top1 = (float(each) if isinstance(each, int | float) else None for each in reached)
        return Standing(status, run.id, int(summary.get("epochs", 0)), top1, val_top1)
    metrics = run.metrics()
    error = summary.get("error") if status == "failed" else None
    epoch = int(metrics[-1].get("epoch", 0)) if metrics else 0
    diverged = status == "failed" and summary.get("diverged") is True
    return Standing(status, run.id, epoch, error=None if error is None else str(error), diverged=diverged)


def _marked(run: Run) -> str | None:
    """The trial of a run; None if it is not part of a sweep."""
    mark = read_json(run.path / MARK)
    return str(mark["trial"]) if "trial" in mark else None


def _renewed(run: Run) -> str | None:
    """The trial of a run of an older version, whose spec had fewer fields."""
    try:
        return identity.digest(identity.renewed(read_json(run.path / MARK)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError):
        return None


@dataclass(frozen=True)
class Row:
    """The trials of a group: how many are in which state, and their accuracies as fractions.

    Interrupted and queued trials count as waiting.
    """

    label: str
    trials: int
    finished: int
    running: int
    failed: int
    waiting: int
    top1: Summary | None
    published_top1: float | None

    @property
    def accuracies(self) -> tuple[float | None, float | None, float | None]:
        """Mean, standard deviation and published accuracy."""
        mean, std = (None, None) if self.top1 is None else (self.top1.mean, self.top1.std)
        return mean, std, self.published_top1


def rows(plan: Plan, standings: Mapping[str, Standing]) -> list[Row]:
    """A row for each group of a sweep."""
    found = []
    for label, digests in plan.groups.items():
        counts = Counter(standings[digest].state for digest in digests)
        done, running, failed = (counts[state] for state in ("finished", "running", "failed"))
        top1 = Summary.of([top1 for digest in digests if (top1 := standings[digest].top1) is not None])
        published = plan.trials[digests[0]].published
        waiting = len(digests) - done - running - failed
        found.append(Row(label, len(digests), done, running, failed, waiting, top1, published))
    return found


def finished_groups(plan: Plan, standings: Mapping[str, Standing], home: Home) -> list[Group]:
    """The finished runs of a sweep, by group.

    Raises:
        UsageError: No run is finished.
    """
    groups = []
    for label, digests in plan.groups.items():
        runs = {}
        for digest in digests:
            standing = standings[digest]
            if standing.state == "finished" and standing.run is not None:
                try:
                    runs[plan.trials[digest].spec.seed] = read_finished(Run(home.runs / standing.run))
                except UsageError as error:
                    logger.info(f"left out {standing.run}: {error.problem}")
        if runs:
            groups.append(Group(label, runs))
    if not groups:
        raise UsageError(f"No run of {plan.name} is finished.", "Start it with `tekapctl sweep FILE`.")
    return groups


def result(plan: Plan, standings: Mapping[str, Standing]) -> dict[str, Any]:
    """Groups and trials as plain values for JSON."""
    counts = Counter(standing.state for standing in standings.values())
    return {
        "sweep": plan.name,
        "states": dict(sorted(counts.items())),
        "groups": [asdict(row) for row in rows(plan, standings)],
        "trials": [
            {"label": plan.trials[digest].label, "digest": digest, **asdict(standing)}
            for digest, standing in standings.items()
        ],
    }
