"""The result of a study: arms, contrasts and conclusions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tekapctl.experiments.comparison.statistics import ALPHA, Difference, Summary, paired
from tekapctl.experiments.comparison.table import difference_cells, number, p_text
from tekapctl.experiments.studies.contrasts import Estimate, estimate, in_block
from tekapctl.experiments.studies.outcomes import Measured, Outcome
from tekapctl.experiments.studies.planning import Planned
from tekapctl.experiments.studies.study import Arm


@dataclass(frozen=True)
class Cell:
    """An outcome of an arm.

    Attributes:
        summary: Its values over seeds.
        values: Its values by seed.
        difference: The difference from the reference arm; None for that arm, or if no seed has both.
    """

    summary: Summary
    values: Mapping[int, float]
    difference: Difference | None


@dataclass(frozen=True)
class Row:
    """An arm with its outcomes.

    Attributes:
        arm: The arm.
        block: Its block; empty if the study has one block.
        reference: Label of the arm that it is compared with.
        cells: Its outcomes; None without runs.
    """

    arm: Arm
    block: str
    reference: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Result:
    """The result of a study.

    Attributes:
        planned: The study.
        finished: Number of finished runs, including teachers.
        rows: The arms.
        estimates: The contrasts, for each tested outcome.
    """

    planned: Planned
    finished: int
    rows: Sequence[Row]
    estimates: Sequence[Estimate]

    @property
    def question(self) -> str:
        """The study's question."""
        return self.planned.study.question

    @property
    def runs(self) -> int:
        """Number of runs, including teachers."""
        return len(self.planned.plan.trials)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """The study's outcomes."""
        return self.planned.design.outcomes

    @property
    def conclusions(self) -> list[str]:
        """A sentence for each contrast, and one for all together."""
        sentences = [self._sentence(each) for each in self.estimates if each.difference is not None]
        tested = sum(each.p_holm is not None for each in self.estimates)
        found = sum(each.significant for each in self.estimates)
        if not tested:
            return [*sentences, "Too few seeds for significance tests."]
        how = f"significant (α = {ALPHA}{', Holm-corrected' if tested > 1 else ''})"
        differences = f"{tested} differences" if tested > 1 else "1 difference"
        return [*sentences, f"Of {differences}, {found or 'none'} {'are' if found > 1 else 'is'} {how}."]

    def _sentence(self, each: Estimate) -> str:
        mean, interval = difference_cells(each.difference, each.outcome.scale, each.outcome.digits, each.unit)
        p = "" if each.p_holm is None else f"p {p_text(each.p_holm, equals='= ')}"
        details = ", ".join(filter(None, (interval and f"95 % CI {interval}", p)))
        outcome = f", {each.outcome.name}" if len(self.outcomes) > 1 else ""
        return f"{each.contrast.label}{outcome}: {mean}{f' ({details})' if details else ''}: {each.verdict}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "study": self.planned.name,
            "question": self.question,
            "sweep": self.planned.plan.name,
            "finished": self.finished,
            "runs": self.runs,
            "arms": [
                {
                    "arm": row.arm.label,
                    "compared_with": row.reference,
                    "block": row.block,
                    "series": row.arm.series,
                    "x": row.arm.x,
                    "outcomes": {
                        outcome.key: None
                        if cell is None
                        else {
                            **asdict(cell.summary),
                            "difference": None if cell.difference is None else asdict(cell.difference),
                        }
                        for outcome, cell in zip(self.outcomes, row.cells, strict=True)
                    },
                }
                for row in self.rows
            ],
            "contrasts": [each.to_dict() for each in self.estimates],
            "conclusions": self.conclusions,
        }


def result(planned: Planned, measured: Mapping[str, Mapping[int, Measured]], finished: int) -> Result:
    """Compute the result of a study.

    Args:
        planned: The study.
        measured: The finished runs, by group of the sweep and by seed.
        finished: Number of finished runs, including teachers.
    """
    outcomes = planned.design.outcomes
    of_arm = {label: measured.get(group, {}) for label, group in planned.groups.items()}
    values = [{label: _read(outcome, runs) for label, runs in of_arm.items()} for outcome in outcomes]
    tested = [each for each in zip(outcomes, values, strict=True) if each[0].is_tested]
    rows = []
    for block in planned.blocks:
        for arm in block.design.arms:
            reference = _reference(block.design.arms, arm)
            own, other = (in_block(block.label, each.label) for each in (arm, reference))
            cells = [_cell(found[own], {} if arm is reference else found[other]) for found in values]
            rows.append(Row(arm, block.label, reference.label, cells))
    return Result(planned, finished, rows, estimate(tested, planned.contrasts))


def _reference(arms: Sequence[Arm], arm: Arm) -> Arm:
    """The arm that another is compared with: the first, or along an axis the first at the same x."""
    if arms[0].x is None or arm.x is None:
        return arms[0]
    return next(each for each in arms if each.x == arm.x)


def _read(outcome: Outcome, runs: Mapping[int, Measured]) -> dict[int, float]:
    found = {seed: outcome.read(one) for seed, one in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _cell(own: Mapping[int, float], reference: Mapping[int, float]) -> Cell | None:
    summary = Summary.of(list(own.values()))
    if summary is None:
        return None
    shared = sorted(own.keys() & reference.keys())
    difference = paired([own[seed] for seed in shared], [reference[seed] for seed in shared]) if shared else None
    return Cell(summary, own, difference)


def arm_cells(result: Result, index: int) -> list[list[str]]:
    """A table of the arms for one outcome, header first."""
    outcome = result.outcomes[index]
    references = {row.reference for row in result.rows}
    if len(references) > 1:  # along an axis, those of one series
        references = {str(row.arm.series) for row in result.rows if row.arm.label in references}
    reference = " or ".join(sorted(references))
    # Counted outcomes, such as training costs, do not vary with the seed.
    spread = outcome.is_tested
    table = [
        ["block", "arm", "seeds", outcome.title, *(["std"] * spread), f"Δ vs. {reference}", *(["95 % CI"] * spread)]
    ]
    for row in result.rows:
        cell = row.cells[index]
        line = [row.block, row.arm.label]
        if cell is None:
            line += [""] * (len(table[0]) - 2)
        else:
            mean, std = (
                number(value, scale=outcome.scale, digits=outcome.digits)
                for value in (cell.summary.mean, cell.summary.std)
            )
            difference, interval = difference_cells(cell.difference, outcome.scale, outcome.digits)
            line += [str(cell.summary.seeds), mean, *([std] * spread), difference, *([interval] * spread)]
        table.append(line)
    return table if any(row.block for row in result.rows) else [line[1:] for line in table]


def contrast_cells(result: Result) -> list[list[str]]:
    """A table of the contrasts with their verdicts, header first."""
    table = [["outcome", "contrast", "difference", "95 % CI", "p (Holm)", "verdict"]]
    for each in result.estimates:
        difference = difference_cells(each.difference, each.outcome.scale, each.outcome.digits, each.unit)
        line = [each.outcome.name, each.contrast.label, *difference, p_text(each.p_holm), each.verdict]
        table.append(line)
    return table if len(result.outcomes) > 1 else [line[1:] for line in table]
