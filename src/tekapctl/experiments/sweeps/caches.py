"""Fill teacher caches that several trials of a sweep share, before those trials start."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.commands.warm_cache import Report, open_cache, warm
from tekapctl.experiments.identity import digest
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.experiments.sweeps.trial import taught_by
from tekapctl.spec import StudentSpec, to_dict
from tekapctl.store.atomic import format_bytes
from tekapctl.store.teacher_cache import RESERVE

logger = logging.getLogger(__name__)

_EPOCHS_PER_VIEW = 3
"""After this many epochs per view, training has computed 95 % of all views anyway."""


@dataclass(frozen=True)
class CacheFill:
    """A teacher cache that several trials share.

    Attributes:
        trial: Digest of one of the trials.
        epochs: Epochs of all of them together.
    """

    trial: str
    epochs: int


def cache_fills(plan: Plan, wanted: Mapping[str, Trial]) -> tuple[dict[str, CacheFill], dict[str, str]]:
    """The teacher caches that trials share.

    Args:
        plan: The sweep.
        wanted: The trials that will run.

    Returns:
        Caches by key, and the key of each trial's cache.
    """
    fills: dict[str, CacheFill] = {}
    cache_of: dict[str, str] = {}
    for name, trial in wanted.items():
        if plan.settings.fill_caches is not False and _reads_cache(trial):
            key = _cache_key(trial)
            known = fills.get(key, CacheFill(name, 0))
            fills[key] = CacheFill(known.trial, known.epochs + trial.spec.epochs)
            cache_of[name] = key
    return fills, cache_of


def fill_cache(
    trial: Trial, folder: SweepFolder, epochs: int, *, always: bool, report: Report
) -> dict[str, Any] | None:
    """Fill the cache of a trial's teacher if that saves time; cached outputs are not computed again.

    Args:
        trial: One of the trials that share the cache.
        folder: The sweep's folder.
        epochs: Epochs of all of them together.
        always: Fill it even if training would compute less, or if the disk is small.
        report: Progress callback.

    Raises:
        UsageError: The teacher or its data do not exist.
    """
    ledger = Ledger(folder.home)
    found = {name: ledger.find(need.digest, need).run for name, need in trial.requires.items()}
    spec = taught_by(trial, {name: run for name, run in found.items() if run is not None})
    assert isinstance(spec, StudentSpec)
    cached = open_cache(spec, folder.home)
    views = cached.batches.distinct_views
    missing = cached.store.identity.bytes - cached.store.bytes_used
    free = shutil.disk_usage(cached.store.path).free
    why = None
    if epochs < _EPOCHS_PER_VIEW * views:
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


def _reads_cache(trial: Trial) -> bool:
    """Whether its teacher's outputs come from a cache."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec) or not spec.cache_teacher or spec.ensemble or spec.data.random_resized_crop:
        return False
    return not spec.beta or spec.method.requires.uncached is None


def _cache_key(trial: Trial) -> str:
    """What a cache depends on, as far as it is known before the teacher and the data are loaded."""
    assert isinstance(trial.spec, StudentSpec)
    table = to_dict(trial.spec)
    need = trial.requires.get(trial.spec.teacher)
    teacher = need.digest if need is not None else [table[field] for field in ("teacher", "teacher_args")]
    # Subsets of the images are drawn by the seed.
    seed = trial.spec.batch_seed if trial.spec.data.is_subset else None
    return digest({"teacher": teacher, "seed": seed, **{name: table[name] for name in ("data", "precision", "device")}})
