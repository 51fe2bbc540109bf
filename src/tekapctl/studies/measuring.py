"""What is measured of a study's finished runs, each once."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tekapctl.comparison.groups import Finished
from tekapctl.engine.measure import measure
from tekapctl.engine.prepare import Say
from tekapctl.spec import load
from tekapctl.store.files import write_whole
from tekapctl.store.home import Home
from tekapctl.store.runs import Run
from tekapctl.studies.outcome import Measured
from tekapctl.studies.planning import Planned
from tekapctl.sweep.folder import SweepFolder
from tekapctl.sweep.plan import Trial
from tekapctl.sweep.state import Standing

Report = Callable[[int, int], None]
"""Is told how many runs are measured, of how many."""


def measured_runs(
    planned: Planned, standings: Mapping[str, Standing], home: Home, say: Say, report: Report
) -> dict[str, dict[int, Measured]]:
    """The finished runs of a study, by what they are called in its sweep and by seed, with what is measured of them.

    What was measured once is kept in the sweep's folder.

    Args:
        planned: The study.
        standings: How its trials stand.
        home: Where runs are.
        say: Is told what is going on.
        report: Is told how far it is.
    """
    design, plan = planned.design, planned.plan
    finished = {digest: standing.run for digest, standing in standings.items() if standing.state == "finished"}
    groups = {group: plan.groups[group] for group in dict.fromkeys(planned.groups.values())}
    wanted = [digest for digests in groups.values() for digest in digests if finished.get(digest)]
    cache = _Cache(SweepFolder(home, plan.name).path / "evaluations", planned)
    found: dict[str, dict[int, Measured]] = {group: {} for group in groups}
    for number, digest in enumerate(wanted):
        trial, run = plan.trials[digest], Run(home.runs / str(finished[digest]))
        one = Finished(run, load(run.path / "spec.toml"), run.summary() or {})
        evaluation = None
        if design.request is not None:
            evaluation = cache.read(run.id)
            if evaluation is None:
                say(f"measuring {trial.label}")
                evaluation = measure(home, run.id, robustness=design.request, limit=design.limit, beside_teacher=False)
                cache.write(run.id, evaluation)
            report(number + 1, len(wanted))
        before = _seconds_before(trial, standings, home)
        found[trial.group][trial.spec.seed] = Measured(one, evaluation, before)
    return found


class _Cache:
    """What was measured of runs, in a file each."""

    def __init__(self, folder: Path, planned: Planned) -> None:
        design = planned.design
        asked = None if design.request is None else {**asdict(design.request), "limit": design.limit}
        self.key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        self.folder = folder

    def read(self, run: str) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path(run).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        except (OSError, ValueError):
            return None

    def write(self, run: str, evaluation: Mapping[str, Any]) -> None:
        write_whole(self._path(run), (json.dumps(evaluation, indent=2) + "\n").encode())

    def _path(self, run: str) -> Path:
        return self.folder / f"{run}-{self.key}.json"


def _seconds_before(trial: Trial, standings: Mapping[str, Standing], home: Home) -> float:
    """Time that the study spent on the training of a trial's teachers, each counted once."""
    needs: dict[str, Trial] = {}
    rest = list(trial.needs.values())
    while rest:
        need = rest.pop()
        if need.digest not in needs:
            needs[need.digest] = need
            rest.extend(need.needs.values())
    runs = [standings[digest].run for digest in needs if digest in standings]
    summaries = [Run(home.runs / run).summary() or {} for run in runs if run is not None]
    return sum(float(summary.get("seconds", 0.0)) for summary in summaries)
