"""What the workers of a sweep do: run a trial unless it is already finished, or fill a cache that trials share."""

import json
import logging
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from tekapctl.commands.warm_cache import Report, open_cache, warm
from tekapctl.errors import TekapctlError
from tekapctl.experiments.identity import digest
from tekapctl.experiments.sweeps.folder import MARK, NotYetError, SweepFolder, lock
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.store.atomic import format_bytes
from tekapctl.store.teacher_cache import RESERVE
from tekapctl.train.callbacks import Callback, StoppedError
from tekapctl.train.run import execute, resume

logger = logging.getLogger(__name__)

_EPOCHS_PER_VIEW = 3
"""After this many epochs per view, training has computed 95 % of all views anyway."""


def run_trial(trial: Trial, folder: SweepFolder, callback: Callback, *, retry: bool = False, wait: bool = False) -> str:
    """Run or resume a trial, after the trials that it requires; returns its run's id.

    Set `retry` to run a failed trial again, and `wait` to wait for another process that runs the trial.

    Raises:
        NotYetError: Another process runs the trial, or one that it requires has failed.
        StoppedError: It was interrupted; its progress is kept.
        TekapctlError: It failed, now or before.
    """
    with lock(folder.home, trial.digest, wait=wait):
        standing = Ledger(folder.home).find(trial)
        if standing.state == "finished" and standing.run is not None:
            return standing.run
        if standing.state == "running":
            raise NotYetError(f"Another process is training the run {standing.run}.", "Wait for it, or stop it.")
        problem = standing.error if standing.state == "failed" else folder.problem(trial.digest)
        if problem is not None and standing.state != "interrupted" and not retry:
            raise TekapctlError(f"It failed before: {problem}", "Retry it with `retry`.")
        teachers = {name: _need(name, need, folder, callback) for name, need in trial.requires.items()}
        folder.problem_file(trial.digest).unlink(missing_ok=True)
        try:
            if standing.run is not None:
                summary = resume(standing.run, folder.home, callback)
            else:
                mark = {"trial": trial.digest, "label": trial.label, **trial.identity}
                files = {MARK: json.dumps(mark, indent=2) + "\n"}
                summary = execute(taught_by(trial, teachers), folder.home, callback, files)
        except (StoppedError, NotYetError):
            raise
        except TekapctlError as error:
            if Ledger(folder.home).find(trial).state != "failed":
                folder.write_problem(trial.digest, str(error))
            raise
        return str(summary["run"])


def taught_by(trial: Trial, teachers: Mapping[str, str]) -> TeacherSpec | StudentSpec:
    """A trial's spec with run ids in place of its teachers' labels."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not teachers:
        return spec
    ensemble = [teachers.get(name, name) for name in spec.ensemble]
    return parse({**to_dict(spec), "teacher": teachers.get(spec.teacher, spec.teacher), "ensemble": ensemble})


def _need(name: str, need: Trial, folder: SweepFolder, callback: Callback) -> str:
    try:
        return run_trial(need, folder, callback, wait=True)
    except StoppedError:
        raise
    except TekapctlError as error:
        raise NotYetError(f"Its teacher {name} is not ready: {error.problem}", error.remedy) from None


class CacheFill(NamedTuple):
    """A teacher cache that several trials share: the digest of one of them, and the epochs of all together."""

    trial: str
    epochs: int


def cache_fills(plan: Plan, wanted: Mapping[str, Trial]) -> tuple[dict[str, CacheFill], dict[str, str]]:
    """The teacher caches shared by trials that will run: caches by key, and the key of each trial's cache."""
    fills: dict[str, CacheFill] = {}
    cache_of: dict[str, str] = {}
    for name, trial in wanted.items():
        if plan.settings.fill_caches is not False and (key := _cache_key(trial)) is not None:
            known = fills.get(key, CacheFill(name, 0))
            fills[key] = CacheFill(known.trial, known.epochs + trial.spec.epochs)
            cache_of[name] = key
    return fills, cache_of


def _cache_key(trial: Trial) -> str | None:
    """What a trial's cache depends on, as far as it is known before it is loaded; None if the trial reads no cache."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not spec.cache_teacher or spec.ensemble or spec.uncached is not None:
        return None
    table = to_dict(spec)
    need = trial.requires.get(spec.teacher)
    teacher = need.digest if need is not None else [spec.teacher, table["teacher_args"]]
    # Subsets of the images are drawn by the seed, and so are augmentations that have a record for each epoch.
    by_view = spec.data.repeats_views
    seed = spec.batch_seed if spec.data.is_subset or not by_view else None
    batches = None if by_view else [spec.batch_size, spec.accumulate, spec.total_epochs]
    return digest(
        {
            "teacher": teacher,
            "seed": seed,
            "batches": batches,
            **{name: table[name] for name in ("data", "precision", "device")},
        }
    )


def fill_cache(
    trial: Trial, folder: SweepFolder, epochs: int, *, always: bool, report: Report
) -> dict[str, Any] | None:
    """Fill the cache of a trial's teacher if that saves time; cached outputs are not computed again.

    `epochs` are those of all trials that share the cache. Set `always` to fill it even if training would compute less
    or the disk is small.

    Raises:
        UsageError: The teacher or its data do not exist.
    """
    ledger = Ledger(folder.home)
    found = {name: ledger.find(need).run for name, need in trial.requires.items()}
    spec = taught_by(trial, {name: run for name, run in found.items() if run is not None})
    assert isinstance(spec, StudentSpec)
    cached = open_cache(spec, folder.home)
    views = cached.batches.distinct_views if cached.batches.repeats_views else cached.epochs
    enough = _EPOCHS_PER_VIEW * views if cached.batches.repeats_views else 2 * views
    missing = cached.store.identity.bytes - cached.store.bytes_used
    free = shutil.disk_usage(cached.store.path).free
    why = None
    if epochs < enough:
        why = f"{epochs:,} epochs do not use all {views:,} views of an image"
    elif missing + RESERVE > free / 2:
        why = f"it would take {format_bytes(missing)} of {format_bytes(free)} free disk space"
    if why and not always:
        logger.info(f"not filling the cache of {spec.teacher}: {why}")
        return None
    filled = warm(cached, report)
    logger.info(
        f"filled the cache of {spec.teacher}: {filled['computed']:,} of {filled['views']:,} views computed, "
        f"{format_bytes(filled['bytes'])} on disk"
    )
    return filled
