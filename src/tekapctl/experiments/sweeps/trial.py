"""One trial of a sweep, carried out by this process, or found to be done."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.commands.warm_cache import Report, open_cache, warm
from tekapctl.errors import TekapctlError
from tekapctl.experiments.sweeps import identity
from tekapctl.experiments.sweeps.folder import MARK, NotYetError, SweepFolder, lock, mark
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.store.atomic import size
from tekapctl.store.teacher_cache import RESERVE
from tekapctl.train.callbacks import Callback, StoppedError
from tekapctl.train.run import execute, resume

logger = logging.getLogger(__name__)


def carry_out(trial: Trial, folder: SweepFolder, callback: Callback, *, retry: bool = False, wait: bool = False) -> str:
    """Bring a trial to its end from wherever it stands, and those that it needs before it; returns its run's id.

    Args:
        trial: The trial.
        folder: The sweep's folder.
        callback: Is told how runs go on.
        retry: Try again although it failed.
        wait: Wait for another process that carries it out.

    Raises:
        NotYetError: Another process carries it out, or one that it needs has failed.
        StoppedError: It was told to stop; the run is saved.
        TekapctlError: It failed, now or before.
    """
    digest = trial.digest
    with lock(folder.home, digest, wait=wait):
        standing = Ledger(folder.home).find(digest, trial)
        if standing.state == "finished" and standing.run is not None:
            return standing.run
        if standing.state == "running":
            raise NotYetError(f"Another process works on the run {standing.run}.", "Wait for it, or stop it.")
        problem = standing.error if standing.state == "failed" else folder.problem(digest)
        if problem is not None and standing.state != "interrupted" and not retry:
            raise TekapctlError(f"It failed before: {problem}", "Try again with --retry.")
        teachers = {name: _need(name, need, folder, callback) for name, need in trial.requires.items()}
        folder.problem_file(digest).unlink(missing_ok=True)
        try:
            if standing.run is not None:
                summary = resume(standing.run, folder.home, callback)
            else:
                summary = execute(taught_by(trial, teachers), folder.home, callback, {MARK: mark(trial)})
        except (StoppedError, NotYetError):
            raise
        except TekapctlError as error:
            if Ledger(folder.home).find(digest, trial).state != "failed":
                folder.write_problem(digest, str(error))
            raise
        return str(summary["run"])


def taught_by(trial: Trial, teachers: dict[str, str]) -> TeacherSpec | StudentSpec:
    """A trial's spec with its teachers by the runs that made them.

    Args:
        trial: The trial.
        teachers: Ids of runs, by what the spec calls them.
    """
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not teachers:
        return spec
    names = [teachers.get(name, name) for name in spec.ensemble]
    return parse({**to_dict(spec), "teacher": teachers.get(spec.teacher, spec.teacher), "ensemble": names})


def _need(
    name: str,
    need: Trial,
    folder: SweepFolder,
    callback: Callback,
) -> str:
    try:
        return carry_out(need, folder, callback, wait=True)
    except StoppedError:
        raise
    except TekapctlError as error:
        raise NotYetError(f"Its teacher {name} is not there yet: {error.problem}", error.remedy) from None


_ASKED_ANYWAY = 3
"""After so many epochs a view, 95 of 100 views have been asked for at least once."""


@dataclass(frozen=True)
class Warming:
    """A store of cached knowledge that several trials share.

    Attributes:
        trial: The digest of one of them.
        epochs: Epochs of all of them together.
    """

    trial: str
    epochs: int


def warmings(plan: Plan, wanted: Mapping[str, Trial]) -> tuple[dict[str, Warming], dict[str, str]]:
    """The stores that trials share.

    Args:
        plan: The sweep.
        wanted: Those of its trials that are to be carried out.

    Returns:
        Stores by name, and the name of each trial's store.
    """
    stores: dict[str, Warming] = {}
    store_of: dict[str, str] = {}
    for digest, trial in wanted.items():
        if plan.settings.warm is False or not _reads_store(trial):
            continue
        key = _store(trial)
        known = stores.get(key, Warming(digest, 0))
        stores[key] = Warming(known.trial, known.epochs + trial.spec.epochs)
        store_of[digest] = key
    return stores, store_of


def warmup(trial: Trial, folder: SweepFolder, epochs: int, *, always: bool, report: Report) -> dict[str, Any] | None:
    """Fill the store of a trial's teacher, if that pays; what is known already is not asked for again.

    Args:
        trial: One of the trials that share it.
        folder: The sweep's folder.
        epochs: Epochs of all of them together.
        always: Do it even where runs that fill the store as they go would ask for less, or the disk is small.
        report: Is told how far it is.

    Raises:
        UsageError: The teacher or its data are not to be had.
    """
    ledger, teachers = Ledger(folder.home), {}
    for name, need in trial.requires.items():
        standing = ledger.find(need.digest, need)
        if standing.run is not None:
            teachers[name] = standing.run
    spec = taught_by(trial, teachers)
    assert isinstance(spec, StudentSpec)
    cached = open_cache(spec, folder.home)
    views = cached.batches.distinct_views
    missing = cached.store.identity.bytes - cached.store.bytes_used
    free = shutil.disk_usage(cached.store.path).free
    if not always and epochs < _ASKED_ANYWAY * views:
        logger.info(
            f"{spec.teacher} is not asked beforehand: {epochs:,} epochs do not ask for all {views:,} views of an image"
        )
        return None
    if not always and missing + RESERVE > free / 2:
        logger.info(
            f"{spec.teacher} is not asked beforehand: that would take {size(missing)} of the disk's {size(free)}"
        )
        return None
    found = warm(cached, report)
    cached_bytes = size(found["bytes"])
    logger.info(
        f"{spec.teacher} was asked for {found['asked']:,} of {found['views']:,} views; {cached_bytes} are cached"
    )
    return found


def _reads_store(trial: Trial) -> bool:
    """Whether its teacher's knowledge comes from a store."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not spec.cache_teacher or spec.ensemble or spec.data.recrop:
        return False
    return not spec.beta or spec.method.requires.uncached is None


def _store(trial: Trial) -> str:
    """What a store depends on, as far as it is known before the teacher and the data are loaded."""
    assert isinstance(trial.spec, StudentSpec)
    table = to_dict(trial.spec)
    need = trial.requires.get(trial.spec.teacher)
    teacher = need.digest if need is not None else [table[field] for field in ("teacher", "teacher_args")]
    # A share of the images is drawn by the seed.
    seed = trial.spec.batch_seed if trial.spec.data.is_subset else None
    what = {"teacher": teacher, "seed": seed, **{field: table[field] for field in ("data", "precision", "device")}}
    return identity.digest(what)
