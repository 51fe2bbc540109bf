"""The cost of a search, stage by stage, from the cost of one whole run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.commands.warm_cache import Report
from tekapctl.experiments.sweeps.cost import costs
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.state import Ledger
from tekapctl.experiments.tuning.tune import Result


@dataclass(frozen=True)
class StageCost:
    """The cost of a stage, of whose runs `left` are not finished.

    Multiply-accumulates and seconds are per run; seconds are None if not measured.
    """

    stage: str
    candidates: int
    seeds: tuple[int, ...]
    epochs: int
    left: int
    macs: float
    seconds: float | None

    @property
    def runs(self) -> int:
        """Runs of all candidates, with the default settings."""
        return self.candidates * len(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "seeds": list(self.seeds), "runs": self.runs}


def stage_costs(begun: Result, folder: SweepFolder, *, measured: bool, report: Report) -> list[StageCost]:
    """The cost of each stage of a search; `begun` has the runs that are finished.

    If `measured`, some steps of the default settings are timed.

    Raises:
        UsageError: A teacher is a run or a file that does not exist.
    """
    tuning = begun.tuning
    last = tuning.rungs[-1]
    plan = tuning.plan(tuning.candidates[:1], last.epochs, last.seeds[:1], folder.home.datasets)
    (whole,) = costs(plan, Ledger(folder.home).look(plan), folder, measured=measured, report=report)
    done = [len(stage.standings) - len(stage.unfinished) for stage in begun.stages]
    stages = [(f"rung {rung.number}", rung.candidates + 1, rung.epochs, rung.seeds) for rung in tuning.rungs]
    stages.append(("confirmation", 2, last.epochs, tuning.confirm_seeds))
    found = []
    for number, (title, candidates, epochs, seeds) in enumerate(stages):
        left = candidates * len(seeds) - (done[number] if number < len(done) else 0)
        share = epochs / last.epochs
        seconds = None if whole.seconds is None else share * whole.seconds
        found.append(StageCost(title, candidates, seeds, epochs, max(0, left), share * whole.macs, seconds))
    return found


def hours(stages: Sequence[StageCost], workers: int) -> float | None:
    """Hours for the unfinished runs with workers that do not slow each other down; None if they are not measured."""
    if any(each.seconds is None for each in stages):
        return None
    return sum(each.left * (each.seconds or 0.0) for each in stages) / workers / 3600
