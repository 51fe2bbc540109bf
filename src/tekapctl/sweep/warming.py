"""Teachers that are asked for all they will be asked before their students start, once for all of these."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.engine.prepare import Say
from tekapctl.engine.warming import Report, open_cache, warm
from tekapctl.knowledge import Needs
from tekapctl.spec import StudentSpec, to_dict
from tekapctl.store.files import size
from tekapctl.store.knowledge import RESERVE
from tekapctl.sweep import identity
from tekapctl.sweep.folder import SweepFolder
from tekapctl.sweep.plan import Plan, Trial
from tekapctl.sweep.state import Ledger
from tekapctl.sweep.trial import taught_by

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


def warm_up(
    trial: Trial, folder: SweepFolder, epochs: int, *, always: bool, say: Say, report: Report
) -> dict[str, Any] | None:
    """Fill the store of a trial's teacher, if that pays; what is known already is not asked for again.

    Args:
        trial: One of the trials that share it.
        folder: The sweep's folder.
        epochs: Epochs of all of them together.
        always: Do it even where runs that fill the store as they go would ask for less, or the disk is small.
        say: Is told what is going on, and why nothing is where nothing is.
        report: Is told how far it is.

    Raises:
        UsageError: The teacher or its data are not to be had.
    """
    ledger, teachers = Ledger(folder.home), {}
    for name, need in trial.needs.items():
        standing = ledger.find(need.digest, need)
        if standing.run is not None:
            teachers[name] = standing.run
    spec = taught_by(trial, teachers)
    assert isinstance(spec, StudentSpec)
    cached = open_cache(spec, folder.home, say)
    views = cached.batches.distinct_views
    missing = cached.store.identity.bytes - cached.store.bytes_used
    free = shutil.disk_usage(cached.store.path).free
    if not always and epochs < _ASKED_ANYWAY * views:
        say(f"{spec.teacher} is not asked beforehand: {epochs:,} epochs do not ask for all {views:,} views of an image")
        return None
    if not always and missing + RESERVE > free / 2:
        say(f"{spec.teacher} is not asked beforehand: that would take {size(missing)} of the disk's {size(free)}")
        return None
    found = warm(cached, report)
    cached_bytes = size(found["bytes"])
    say(f"{spec.teacher} was asked for {found['asked']:,} of {found['views']:,} views; {cached_bytes} are cached")
    return found


def _reads_store(trial: Trial) -> bool:
    """Whether its teacher's knowledge comes from a store."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not spec.cache_teacher or spec.ensemble or spec.data.recrop:
        return False
    return not spec.beta or spec.method.needs == Needs()


def _store(trial: Trial) -> str:
    """What a store depends on, as far as it is known before the teacher and the data are loaded."""
    assert isinstance(trial.spec, StudentSpec)
    table = to_dict(trial.spec)
    need = trial.needs.get(trial.spec.teacher)
    teacher = need.digest if need is not None else [table[field] for field in ("teacher", "teacher_args")]
    # A share of the images is drawn by the seed.
    seed = trial.spec.batch_seed if trial.spec.data.is_subset else None
    what = {"teacher": teacher, "seed": seed, **{field: table[field] for field in ("data", "precision", "device")}}
    return identity.digest(what)
