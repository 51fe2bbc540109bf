"""What came of a study."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.intervals import Difference, paired, t_quantile
from tekapctl.experiments.studies.contrast import Estimate, Observed, estimate, in_block
from tekapctl.experiments.studies.outcome import Measured, Outcome
from tekapctl.experiments.studies.planning import Planned
from tekapctl.experiments.studies.study import Arm


@dataclass(frozen=True)
class Cell:
    """An outcome of an arm.

    Attributes:
        seeds: How many runs have it.
        mean: Over them.
        deviation: Their standard deviation; None of a single run.
        half_interval: Half of the mean's 95 % interval, by Student's t; None of a single run.
        less_first: The difference from the arm that it is compared with; None of that itself, and where no seed has
            both.
    """

    seeds: int
    mean: float
    deviation: float | None
    half_interval: float | None
    less_first: Difference | None


@dataclass(frozen=True)
class Row:
    """An arm: what it is called, what it is compared with, its place in the chart, and each outcome that it has."""

    arm: str
    block: str
    against: str
    series: str | None
    at: float | int | None
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Result:
    """What came of a study.

    Attributes:
        study: Its name.
        question: What it asks.
        name: The sweep's name.
        finished: How many runs are finished.
        runs: How many there are.
        outcomes: What was measured.
        rows: The arms.
        estimates: The contrasts, of each outcome that is tested.
        axis: What the chart's axis shows.
    """

    study: str
    question: str
    name: str
    finished: int
    runs: int
    outcomes: Sequence[Outcome]
    rows: Sequence[Row]
    estimates: Sequence[Estimate]
    axis: str | None

    @property
    def verdict(self) -> list[str]:
        """What may be said, in sentences: of each contrast, and of all together."""
        told = [self._sentence(each) for each in self.estimates if each.difference is not None]
        count = sum(each.corrected is not None for each in self.estimates)
        found = sum(each.is_beyond_noise for each in self.estimates)
        if not count:
            return [*told, "With so few seeds nothing can be said of noise."]
        together = f"Of {count} differences {found or 'none'} {'is' if found == 1 else 'are'} beyond seed noise"
        how = "at 5 % for all of them together (Holm)"
        return [*told, f"{together}, {how}." if count > 1 else f"{together}, at 5 %."]

    def _sentence(self, each: Estimate) -> str:
        found = each.difference
        assert found is not None
        digits = self.digits(each.outcome)
        known = found.low is not None and found.high is not None
        interval = f" ({found.low:+.{digits}f} to {found.high:+.{digits}f})" if known else ""
        p = "" if each.corrected is None else f", p {each.corrected:.3f}"
        outcome = f", {each.outcome}" if len(self.outcomes) > 1 else ""
        unit = f" {each.unit}" if each.unit else ""
        return f"{each.contrast}{outcome}: {found.mean:+.{digits}f}{unit}{interval}{p}: {each.verdict}."

    def digits(self, outcome: str) -> int:
        """Decimal places of an outcome."""
        return next(each.digits for each in self.outcomes if each.name == outcome)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "study": self.study,
            "question": self.question,
            "sweep": self.name,
            "finished": self.finished,
            "runs": self.runs,
            "arms": [
                {
                    "arm": row.arm,
                    "against": row.against,
                    "block": row.block,
                    "series": row.series,
                    "at": row.at,
                    "outcomes": {
                        outcome.name: None if cell is None else asdict(cell)
                        for outcome, cell in zip(self.outcomes, row.cells, strict=True)
                    },
                }
                for row in self.rows
            ],
            "contrasts": [
                {**asdict(each), "is_beyond_noise": each.is_beyond_noise, "verdict": each.verdict}
                for each in self.estimates
            ],
            "verdict": self.verdict,
        }


def result(planned: Planned, measured: Mapping[str, Mapping[int, Measured]], finished: int) -> Result:
    """What came of a study.

    Args:
        planned: The study.
        measured: Of each group of the sweep, the finished runs by seed.
        finished: How many of its runs are finished, those of teachers among them.
    """
    design = planned.design
    of_arm = {label: measured.get(group, {}) for label, group in planned.groups.items()}
    values = [{label: _read(outcome, runs) for label, runs in of_arm.items()} for outcome in design.outcomes]
    tested = [
        Observed(outcome.name, outcome.unit, outcome.higher_is_better, found)
        for outcome, found in zip(design.outcomes, values, strict=True)
        if outcome.is_tested
    ]
    rows = []
    for block in planned.blocks:
        for arm in block.design.arms:
            label, place = in_block(block.label, arm.label), arm.place
            against = _reference(block.design.arms, arm)
            first = in_block(block.label, against.label)
            rows.append(
                Row(
                    arm.label,
                    block.label,
                    against.label,
                    None if place is None else place.series,
                    None if place is None else place.at,
                    [_cell(found[label], {} if label == first else found[first]) for found in values],
                )
            )
    return Result(
        planned.name,
        planned.study.question,
        planned.plan.name,
        finished,
        len(planned.plan.trials),
        design.outcomes,
        rows,
        estimate(tested, planned.contrasts),
        design.axis,
    )


def _reference(arms: Sequence[Arm], arm: Arm) -> Arm:
    """The arm that another is compared with: the first, or where that has a place, the first at the same place."""
    first = arms[0]
    if first.place is None or arm.place is None:
        return first
    at = arm.place.at
    return next(each for each in arms if each.place is not None and each.place.at == at)


def _read(outcome: Outcome, runs: Mapping[int, Measured]) -> dict[int, float]:
    found = {seed: outcome.read(one) for seed, one in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _cell(own: Mapping[int, float], first: Mapping[int, float]) -> Cell | None:
    if not own:
        return None
    numbers = list(own.values())
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    half = None if deviation is None else t_quantile(0.975, len(numbers) - 1) * deviation / len(numbers) ** 0.5
    shared = sorted(own.keys() & first.keys())
    difference = paired([own[seed] for seed in shared], [first[seed] for seed in shared]) if shared else None
    return Cell(len(numbers), statistics.fmean(numbers), deviation, half, difference)
