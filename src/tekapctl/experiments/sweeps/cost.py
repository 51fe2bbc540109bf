"""What a sweep will cost, estimated for each trial and measured for each group of them."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tekapctl.commands.bench import measure_alone, measure_steps
from tekapctl.commands.cost import Cost, estimate
from tekapctl.device import describe, resolve_device
from tekapctl.errors import TekapctlError
from tekapctl.experiments.sweeps import identity
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Plan, Trial
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.store.atomic import atomic_write
from tekapctl.store.home import Home

logger = logging.getLogger(__name__)

STEPS = 3
"""Steps that are measured, after others that warm up."""

Report = Callable[[int, int], None]
"""Is told how many groups are measured, of how many."""


@dataclass(frozen=True)
class GroupCost:
    """What the trials of a group cost.

    Attributes:
        label: The group.
        trials: How many.
        left: How many of them are not finished.
        macs: Multiply-accumulates of one of them.
        memory_bytes: Memory of one of them, at most.
        seconds: Time of one of them on this machine; None where it was not measured.
    """

    label: str
    trials: int
    left: int
    macs: float
    memory_bytes: int
    seconds: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def costs(
    plan: Plan, standings: Mapping[str, Standing], folder: SweepFolder, *, measured: bool, report: Report
) -> list[GroupCost]:
    """What each group costs.

    Args:
        plan: The sweep.
        standings: How its trials stand.
        folder: Where measured times are kept for the next time.
        measured: Measure some steps of one trial of each group.
        report: Is told how far it is.

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
    """Hours that what is left takes with so many workers that do not slow each other; None where one is not known."""
    if any(each.left and each.seconds is None for each in found):
        return None
    return sum(each.left * (each.seconds or 0.0) for each in found) / workers / 3600


def estimated(trial: Trial, home: Home) -> Cost:
    """What a trial costs; those that come before it need not be there.

    Raises:
        UsageError: A teacher is a run or a file that does not exist.
    """
    return estimate(_by_network(trial), home)


def _by_network(trial: Trial) -> TeacherSpec | StudentSpec:
    """A trial's spec with its teachers by their networks: what comes first need not be there yet."""
    spec = trial.spec
    if not isinstance(spec, StudentSpec):
        return spec
    names = {name: need.spec.network for name, need in trial.requires.items()}
    ensemble = [names.get(name, name) for name in spec.ensemble]
    return parse({**to_dict(spec), "teacher": names.get(spec.teacher, spec.teacher), "ensemble": ensemble})


def _seconds(
    trial: Trial,
    folder: SweepFolder,
) -> float | None:
    """Time of a trial, measured now or before."""
    spec = _by_network(trial)
    path = folder.path / "measured.json"
    known = _known(path)
    where = describe(resolve_device(spec.device))
    cached = isinstance(spec, StudentSpec) and spec.cache_teacher
    how = f"{where}, compiled {spec.compile}, cached {cached}"
    key = f"{how}: {identity.group(identity.identity(spec, {}))}"
    if key not in known:
        try:
            if isinstance(spec, StudentSpec):
                known[key] = measure_steps(spec, folder.home, STEPS).run_seconds
            else:
                known[key] = measure_alone(spec, folder.home, STEPS)
        except TekapctlError as error:
            logger.info(f"{trial.group} was not measured: {error.problem}")
            return None
        atomic_write(path, (json.dumps(known, indent=2) + "\n").encode())
    return known[key]


def _known(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
