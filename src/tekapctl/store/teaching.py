"""Which runs taught which others, as their specs say."""

from collections.abc import Collection, Sequence
from pathlib import Path

from tekapctl.store.run import Run, start_time
from tekapctl.store.runs import Runs


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
