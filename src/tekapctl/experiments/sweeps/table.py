"""The table of a sweep: states and results of trials, grouped over seeds."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.experiments.comparison.groups import Group, read_finished
from tekapctl.experiments.comparison.statistics import Summary
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.store.home import Home
from tekapctl.store.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """The trials of a group; accuracies are fractions from 0 to 1.

    Attributes:
        label: The group.
        trials: Number of trials.
        finished: Number of finished trials.
        running: Number of running trials.
        failed: Number of failed trials.
        waiting: Number of other trials, including interrupted and queued ones.
        top1: Top-1 accuracy of finished trials after the last epoch; None if there are none.
        published_top1: The published accuracy of the same experiment.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def rows(plan: Plan, standings: Mapping[str, Standing]) -> list[Row]:
    """A row for each group of a sweep."""
    found = []
    for label, digests in plan.groups.items():
        counts = Counter(standings[digest].state for digest in digests)
        reached = [top1 for digest in digests if (top1 := standings[digest].top1) is not None]
        done, running, failed = counts["finished"], counts["running"], counts["failed"]
        found.append(
            Row(
                label,
                len(digests),
                done,
                running,
                failed,
                len(digests) - done - running - failed,
                Summary.of(reached),
                plan.trials[digests[0]].published,
            )
        )
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
        "groups": [row.to_dict() for row in rows(plan, standings)],
        "trials": [
            {"label": plan.trials[digest].label, "digest": digest, **standing.to_dict()}
            for digest, standing in standings.items()
        ],
    }
