"""A sweep's trials, grouped by everything but the seed."""

import logging
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Group, read_finished
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.store.home import Home
from tekapctl.store.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """How a group's trials stand; accuracies are in percent.

    Attributes:
        label: The group.
        trials: How many.
        finished: How many of them are finished.
        running: How many are being carried out.
        failed: How many have failed.
        waiting: How many are left, those that were interrupted or are queued among them.
        mean: Mean top-1 after the last epoch of those that are finished.
        deviation: Its standard deviation.
        published: The published number of the same experiment.
    """

    label: str
    trials: int
    finished: int
    running: int
    failed: int
    waiting: int
    mean: float | None
    deviation: float | None
    published: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def rows(plan: Plan, standings: Mapping[str, Standing]) -> list[Row]:
    """A row for each group of a sweep."""
    found = []
    for label, digests in plan.groups.items():
        counts = Counter(standings[digest].state for digest in digests)
        reached = [100 * top1 for digest in digests if (top1 := standings[digest].top1) is not None]
        done, running, failed = counts["finished"], counts["running"], counts["failed"]
        found.append(
            Row(
                label,
                len(digests),
                done,
                running,
                failed,
                len(digests) - done - running - failed,
                statistics.fmean(reached) if reached else None,
                statistics.stdev(reached) if len(reached) > 1 else None,
                plan.trials[digests[0]].published,
            )
        )
    return found


def finished_groups(
    plan: Plan,
    standings: Mapping[str, Standing],
    home: Home,
) -> list[Group]:
    """The finished runs of a sweep, in its groups.

    Args:
        plan: The sweep.
        standings: How its trials stand.
        home: Where the runs are.

    Raises:
        UsageError: There are none.
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
    """All of it as plain values, for JSON."""
    counts = Counter(standing.state for standing in standings.values())
    return {
        "sweep": plan.name,
        "states": dict(sorted(counts.items())),
        "groups": [row.to_dict() for row in rows(plan, standings)],
        "trials": [
            {"label": plan.trials[digest].label, "digest": digest, **standing.to_dict()}
            for digest, standing in standings.items()
        ],
    }
