"""Measure a study's finished runs, each once."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from tekapctl import __version__
from tekapctl.commands.evaluate import evaluate
from tekapctl.commands.robustness import Request
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import read_finished
from tekapctl.experiments.studies.outcomes import Measured
from tekapctl.experiments.studies.planning import Planned
from tekapctl.experiments.sweeps.cost import estimated
from tekapctl.experiments.sweeps.plan import Trial
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.store.atomic import atomic_write
from tekapctl.store.home import Home
from tekapctl.store.run import Run

logger = logging.getLogger(__name__)

Report = Callable[[int, int], None]
"""Called with the number of measured runs and of all runs."""


def measured_runs(
    planned: Planned, standings: Mapping[str, Standing], home: Home, report: Report
) -> dict[str, dict[int, Measured]]:
    """A study's finished runs with their measurements, by group and seed.

    Measurements are kept in the run's folder and reused by all studies. Damaged runs are left out.
    """
    design, plan = planned.design, planned.plan
    finished = {digest: standing.run for digest, standing in standings.items() if standing.state == "finished"}
    groups = {group: plan.groups[group] for group in dict.fromkeys(planned.groups.values())}
    wanted = [digest for digests in groups.values() for digest in digests if finished.get(digest)]
    costs: dict[str, tuple[float, float]] = {}
    found: dict[str, dict[int, Measured]] = {group: {} for group in groups}
    for number, digest in enumerate(wanted):
        trial, run = plan.trials[digest], Run(home.runs / str(finished[digest]))
        evaluation = None
        try:
            one = read_finished(run)
            if design.request is not None:
                evaluation = _evaluation(run, trial.label, design.request, design.limit, home)
        except TekapctlError as error:
            logger.info(f"left out {run.id}: {error.problem}")
            continue
        if design.request is not None:
            report(number + 1, len(wanted))
        if design.counts_macs and trial.group not in costs:
            costs[trial.group] = cost_of(trial, home)
        found[trial.group][trial.spec.seed] = Measured(one, evaluation, *costs.get(trial.group, (None, None)))
    return found


def _evaluation(run: Run, label: str, request: Request, limit: int | None, home: Home) -> dict[str, Any]:
    """Measurements of a run's network, kept in its folder for this version of the program."""
    asked = {**asdict(request), "limit": limit, "version": __version__}
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    path = run.path / "evaluations" / f"{key}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if _is_whole(found, request):
            return dict(found)
    except (OSError, ValueError, RecursionError):
        pass  # not measured yet
    logger.info(f"measuring {label}")
    found = evaluate(home, run.id, robustness=request, limit=limit, with_teacher=False)
    atomic_write(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


def _is_whole(found: Any, request: Request) -> bool:
    """Whether a kept evaluation has everything that studies read."""
    shifts, probes = [shift.name for shift in request.shifts()], list(request.probes)
    parts = (("robustness", "shift", shifts), ("transfer", "dataset", probes))
    return isinstance(found, dict) and all(
        isinstance(found.get(part), list)
        and len(found[part]) == len(asked)
        and all(
            isinstance(each, dict)
            and isinstance(each.get(name), str)
            and type(each.get("top1")) in (int, float)
            and 0 <= each["top1"] <= 1
            for each in found[part]
        )
        for part, name, asked in parts
    )


def cost_of(trial: Trial, home: Home) -> tuple[float, float]:
    """Multiply-accumulates of training a trial, and of training its teachers (and theirs), each counted once."""
    before: dict[str, Trial] = {}
    rest = list(trial.requires.values())
    while rest:
        need = rest.pop()
        if need.digest not in before:
            before[need.digest] = need
            rest.extend(need.requires.values())
    return estimated(trial, home).total_macs, sum(estimated(need, home).total_macs for need in before.values())
