"""The cost of a sweep: estimated per trial, and measured per group."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from tekapctl.commands.bench import measure
from tekapctl.commands.cost import Cost, estimate
from tekapctl.commands.warm_cache import Report
from tekapctl.device import describe, resolve_device
from tekapctl.errors import TekapctlError
from tekapctl.experiments import identity
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.experiments.sweeps.trial import taught_by
from tekapctl.spec import StudentSpec, TeacherSpec
from tekapctl.store.atomic import as_json, atomic_write, read_json
from tekapctl.store.home import Home

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupCost:
    """The cost of a group's trials, of which `left` are unfinished.

    Multiply-accumulates, peak memory and seconds are per trial; seconds are None if not measured.
    """

    label: str
    trials: int
    left: int
    macs: float
    memory_bytes: int
    seconds: float | None


def costs(
    plan: Plan, standings: Mapping[str, Standing], folder: SweepFolder, *, measured: bool, report: Report
) -> list[GroupCost]:
    """The cost of each group. If `measured`, times some steps of one trial of each, and keeps the times in the folder.

    Raises:
        UsageError: A teacher is a run or a file that does not exist.
    """
    found = []
    groups = plan.groups
    for number, (label, digests) in enumerate(groups.items()):
        trial = plan.trials[digests[0]]
        cost = estimated(trial, folder.home)
        seconds = _seconds(trial, folder) if measured else None
        left = sum(standings[digest].state != "finished" for digest in digests)
        found.append(GroupCost(label, len(digests), left, cost.total_macs, cost.memory_bytes, seconds))
        report(number + 1, len(groups))
    return found


def hours(found: list[GroupCost], workers: int) -> float | None:
    """Hours for the unfinished trials with workers that do not slow each other down; None if a time is unknown."""
    if any(each.left and each.seconds is None for each in found):
        return None
    return sum(each.left * (each.seconds or 0.0) for each in found) / workers / 3600


def estimated(trial: Trial, home: Home) -> Cost:
    """The cost of a trial, whose teachers need not be trained yet.

    Raises:
        UsageError: A teacher is a run or a file that does not exist.
    """
    return estimate(_by_network(trial), home)


def _by_network(trial: Trial) -> TeacherSpec | StudentSpec:
    """A trial's spec with networks in place of teachers that are not trained yet."""
    return taught_by(trial, {name: need.spec.network for name, need in trial.requires.items()})


def _seconds(trial: Trial, folder: SweepFolder) -> float | None:
    """Time per trial, measured now or before."""
    spec, path = _by_network(trial), folder.path / "measured.json"
    known = {key: each for key, each in read_json(path).items() if type(each) in (int, float) and each < math.inf}
    cached = isinstance(spec, StudentSpec) and spec.cache_teacher
    how = f"{describe(resolve_device(spec.device))}, compiled {spec.compile}, graph {spec.graph}, cached {cached}"
    key = f"{how}: {identity.group(identity.identity(spec, {}))}"
    if key not in known:
        try:
            known[key] = measure(spec, folder.home).seconds
        except TekapctlError as error:
            logger.info(f"could not measure {trial.group}: {error.problem}")
            return None
        atomic_write(path, as_json(known))
    return float(known[key])
