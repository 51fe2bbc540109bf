"""Carry out a search: one rung after the other, the confirmation, and the spec of the winner."""

import logging
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import Finished, read_finished
from tekapctl.experiments.comparison.statistics import Summary
from tekapctl.experiments.sweeps.plan import Plan
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.experiments.tuning.candidates import Candidate
from tekapctl.experiments.tuning.confirmation import Confirmation, confirm
from tekapctl.experiments.tuning.halving import Rung, promoted
from tekapctl.experiments.tuning.planning import Tuning
from tekapctl.spec import dumps
from tekapctl.store.atomic import atomic_write
from tekapctl.store.home import Home
from tekapctl.store.run import Run

logger = logging.getLogger(__name__)

_ABOVE_CHANCE = 0.1
"""Runs that have come less than this share of the way from chance to no error have learned little."""

Standings = Mapping[str, Standing]
Execute = Callable[[str, Plan], Standings]
"""Runs what is not finished of a plan with this title, and returns the states of all its runs."""


@dataclass(frozen=True)
class Stage:
    """A stage of a search as far as it is carried out: a rung or the confirmation."""

    title: str
    epochs: int
    seeds: tuple[int, ...]
    plan: Plan
    standings: Standings

    @property
    def unfinished(self) -> Standings:
        """The runs that have no result yet; training that diverged is a result."""
        return {
            digest: standing
            for digest, standing in self.standings.items()
            if standing.state != "finished" and not standing.diverged
        }

    def of(self, candidate: Candidate) -> dict[int, Standing]:
        """The states of a candidate's runs, by seed."""
        digests = self.plan.groups[candidate.label]
        return {self.plan.trials[digest].spec.seed: self.standings[digest] for digest in digests}

    def val_top1(self, candidate: Candidate) -> Summary | None:
        """A candidate's top-1 accuracy on the validation images; None if a run of it diverged or is not finished."""
        found = [standing.val_top1 for standing in self.of(candidate).values()]
        known = [top1 for top1 in found if top1 is not None]
        return Summary.of(known) if len(known) == len(found) else None


@dataclass(frozen=True)
class Score:
    """The last rung that a candidate reached, and its top-1 accuracy on the validation images in it.

    The accuracy is None if a run diverged or is not finished.
    """

    candidate: Candidate
    rung: Rung
    val_top1: Summary | None
    diverged: bool


@dataclass
class Result:
    """A search as far as it is carried out.

    Attributes:
        tuning: The plan.
        stages: The stages that were begun, rungs first.
        scores: The newest result of each candidate, by number.
        winner: The best candidate of the last rung; None before.
        confirmation: What fresh seeds say of it; None before.
        spec_file: The winner's spec; None before the confirmation.
    """

    tuning: Tuning
    stages: list[Stage] = field(default_factory=list)
    scores: dict[int, Score] = field(default_factory=dict)
    winner: Candidate | None = None
    confirmation: Confirmation | None = None
    spec_file: Path | None = None

    @property
    def runs(self) -> int:
        """Finished runs, with those that diverged."""
        return sum(len(stage.standings) - len(stage.unfinished) for stage in self.stages)

    @property
    def epochs(self) -> int:
        """Epochs of these runs, with those of init stages."""
        return sum(
            standing.epoch if standing.diverged else stage.plan.trials[digest].spec.total_epochs
            for stage in self.stages
            for digest, standing in stage.standings.items()
            if digest not in stage.unfinished
        )

    @property
    def seeds(self) -> list[int]:
        """All seeds of the stages that were begun."""
        return sorted({seed for stage in self.stages for seed in stage.seeds})

    @property
    def ranking(self) -> list[Score]:
        """Candidates from the best to the worst: first those that reached a later rung."""

        def key(score: Score) -> tuple[int, float, int]:
            return -score.rung.number, -(score.val_top1.mean if score.val_top1 else -1.0), score.candidate.number

        return sorted(self.scores.values(), key=key)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        tuning = self.tuning
        return {
            "tune": tuning.name,
            "search": {axis.field: axis.values.to_dict() for axis in tuning.axes},
            "val_fraction": tuning.val_fraction,
            "rungs": [{**asdict(rung), "seeds": list(rung.seeds)} for rung in tuning.rungs],
            "runs": self.runs,
            "runs_planned": tuning.runs,
            "epochs": self.epochs,
            "seeds": self.seeds,
            "candidates": [
                {
                    "candidate": score.candidate.number,
                    "settings": dict(score.candidate.settings),
                    "rung": score.rung.number,
                    "epochs": score.rung.epochs,
                    "val_top1": None if score.val_top1 is None else asdict(score.val_top1),
                    "diverged": score.diverged,
                }
                for score in self.ranking
            ],
            "winner": None if self.winner is None else self.winner.number,
            "settings": None if self.winner is None else dict(self.winner.settings),
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "spec_file": None if self.spec_file is None else str(self.spec_file),
        }


def tune(tuning: Tuning, home: Home, execute: Execute, *, write: bool = True) -> Result:
    """Carry out a search until it ends, or until a stage is left with unfinished runs.

    Finished runs are found again, so the search continues where an earlier call ended.

    Args:
        tuning: The plan.
        home: The home folder.
        execute: Runs a stage.
        write: Write the winner's spec to `best.toml` in the search's folder.

    Raises:
        TekapctlError: The training of the default settings diverged, or a run's files are damaged.
    """
    result = Result(tuning)
    default, *survivors = tuning.candidates
    for rung in tuning.rungs:
        title = f"rung {rung.number} of {len(tuning.rungs)}"
        stage = _carry_out(result, title, [default, *survivors], rung.epochs, rung.seeds, home, execute)
        for candidate in (default, *survivors):
            diverged = any(standing.diverged for standing in stage.of(candidate).values())
            result.scores[candidate.number] = Score(candidate, rung, stage.val_top1(candidate), diverged)
        if stage.unfinished:
            return result
        if stage.val_top1(default) is None:
            raise TekapctlError(
                f"The training of the default settings diverged in {title}, so there is nothing to compare with.",
                "Choose default settings that train, such as a smaller `optimizer.learning_rate`.",
            )
        if rung.number < len(tuning.rungs):
            _warn_near_chance(stage, tuning, home)
        scores = {each.number: found.mean if (found := stage.val_top1(each)) else None for each in survivors}
        if rung is tuning.rungs[-1]:
            scores[0] = result.scores[0].val_top1.mean if result.scores[0].val_top1 else None
            result.winner = tuning.candidates[promoted(scores, 1)[0]]
            break
        kept = promoted(scores, tuning.rungs[rung.number].candidates)
        survivors = [each for each in survivors if each.number in kept]
    _confirm(result, home, execute)
    if result.confirmation is not None and result.winner is not None:
        result.spec_file = home.sweeps / tuning.name / "best.toml"
        if write:
            atomic_write(result.spec_file, dumps(tuning.best(result.winner)).encode())
    return result


def _warn_near_chance(stage: Stage, tuning: Tuning, home: Home) -> None:
    """Say so if a rung was too short to rank its candidates."""
    reached = [standing.val_top1 for standing in stage.standings.values() if standing.val_top1 is not None]
    chance = 1 / tuning.spec.data.shape(home.datasets).classes
    if statistics.median(reached) < chance + _ABOVE_CHANCE * (1 - chance):
        logger.warning(
            f"half of the runs of {stage.title} are close to chance after {stage.epochs} epochs, so their ranking says "
            "little; begin with longer runs (min_epochs)"
        )


def _carry_out(
    result: Result,
    title: str,
    candidates: list[Candidate],
    epochs: int,
    seeds: tuple[int, ...],
    home: Home,
    execute: Execute,
) -> Stage:
    plan = result.tuning.plan(candidates, epochs, seeds, home.datasets)
    stage = Stage(title, epochs, seeds, plan, execute(title, plan))
    result.stages.append(stage)
    return stage


def _confirm(result: Result, home: Home, execute: Execute) -> None:
    """Train the winner and the default settings on fresh seeds."""
    tuning, winner = result.tuning, result.winner
    assert winner is not None
    default = tuning.candidates[0]
    both = [default] if winner is default else [default, winner]
    epochs, seeds = tuning.rungs[-1].epochs, tuning.confirm_seeds
    stage = _carry_out(result, "confirmation", both, epochs, seeds, home, execute)
    if stage.unfinished:
        return

    def finished(candidate: Candidate) -> dict[int, Finished]:
        found = stage.of(candidate).items()
        return {seed: read_finished(Run(home.runs / str(each.run))) for seed, each in found if each.state == "finished"}

    of_default = {} if winner is default else finished(default)
    result.confirmation = confirm(winner, seeds, finished(winner), of_default)
