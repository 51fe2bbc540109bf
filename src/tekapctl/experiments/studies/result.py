"""Measure a study's finished runs, and draw its conclusions from them."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tekapctl import __version__
from tekapctl.commands.evaluate import evaluate
from tekapctl.commands.robustness import Request
from tekapctl.commands.warm_cache import Report
from tekapctl.errors import TekapctlError
from tekapctl.experiments.comparison.groups import read_finished
from tekapctl.experiments.comparison.statistics import ALPHA, Difference, Summary, paired
from tekapctl.experiments.comparison.table import difference_cells, number, p_text
from tekapctl.experiments.studies.contrasts import MACS, Estimate, Measured, Outcome, estimate, in_block
from tekapctl.experiments.studies.planning import Planned
from tekapctl.experiments.studies.study import Arm
from tekapctl.experiments.sweeps.cost import estimated
from tekapctl.experiments.sweeps.plan import Trial
from tekapctl.experiments.sweeps.state import Standing
from tekapctl.store.atomic import as_json, atomic_write, read_json
from tekapctl.store.home import Home
from tekapctl.store.run import Run

logger = logging.getLogger(__name__)


def measured_runs(
    planned: Planned, standings: Mapping[str, Standing], home: Home, report: Report
) -> dict[str, dict[int, Measured]]:
    """A study's finished runs with their measurements, by group and seed.

    Measurements are kept in the run's folder and reused by all studies. Damaged runs are left out.
    """
    design, plan = planned.design, planned.plan
    finished = {digest: standing.run for digest, standing in standings.items() if standing.state == "finished"}
    found: dict[str, dict[int, Measured]] = {group: {} for group in planned.groups.values()}
    wanted = [digest for group in found for digest in plan.groups[group] if finished.get(digest)]
    costs: dict[str, tuple[float, float]] = {}
    for done, digest in enumerate(wanted):
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
            report(done + 1, len(wanted))
        if MACS in design.outcomes and trial.group not in costs:
            costs[trial.group] = cost_of(trial, home)
        found[trial.group][trial.spec.seed] = Measured(one, evaluation, *costs.get(trial.group, (None, None)))
    return found


def _evaluation(run: Run, label: str, request: Request, limit: int | None, home: Home) -> dict[str, Any]:
    """Measurements of a run's network, kept in its folder for this version of the program."""
    asked = {**asdict(request), "limit": limit, "version": __version__}
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    path = run.path / "evaluations" / f"{key}.json"
    found = read_json(path)
    if not _is_whole(found, request):
        logger.info(f"measuring {label}")
        found = evaluate(home, run.id, robustness=request, limit=limit, with_teacher=False)
        atomic_write(path, as_json(found))
    return found


def _is_whole(found: dict[str, Any], request: Request) -> bool:
    """Whether a kept evaluation has everything that studies read."""

    def is_result(each: Any, name: str) -> bool:
        return isinstance(each, dict) and isinstance(each.get(name), str) and _is_fraction(each.get("top1"))

    parts = (("robustness", "shift", request.shifts()), ("transfer", "dataset", request.probes))
    return all(
        isinstance(found.get(part), list)
        and len(found[part]) == len(asked)
        and all(is_result(each, name) for each in found[part])
        for part, name, asked in parts
    )


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def cost_of(trial: Trial, home: Home) -> tuple[float, float]:
    """Multiply-accumulates of training a trial, and of training its teachers (and theirs), each counted once."""
    teachers = {need.digest: need for need in _required(trial)}.values()
    return estimated(trial, home).total_macs, sum(estimated(need, home).total_macs for need in teachers)


def _required(trial: Trial) -> Iterator[Trial]:
    for need in trial.requires.values():
        yield need
        yield from _required(need)


class Cell(NamedTuple):
    """An outcome of an arm over seeds, and its difference from the reference arm if that has a seed in common."""

    summary: Summary
    difference: Difference | None


@dataclass(frozen=True)
class Row:
    """An arm with its block, the label of the arm that it is compared with, and its outcomes; None without runs."""

    arm: Arm
    block: str
    reference: str
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class Result:
    """The result of a study: its arms, and its contrasts for each tested outcome.

    `finished` is the number of finished runs, including teachers.
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
                        outcome.key: cell and {**asdict(cell.summary), "difference": _plain(cell.difference)}
                        for outcome, cell in zip(self.outcomes, row.cells, strict=True)
                    },
                }
                for row in self.rows
            ],
            "contrasts": [each.to_dict() for each in self.estimates],
            "conclusions": self.conclusions,
        }


def _plain(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference)


def result(planned: Planned, measured: Mapping[str, Mapping[int, Measured]], finished: int) -> Result:
    """Compute the result of a study.

    The finished runs are given by group of the sweep and by seed; `finished` counts them with their teachers.
    """
    outcomes = planned.design.outcomes
    of_arm = {label: measured.get(group, {}) for label, group in planned.groups.items()}
    values = [{label: _read(outcome, runs) for label, runs in of_arm.items()} for outcome in outcomes]
    tested = [each for each in zip(outcomes, values, strict=True) if each[0].is_tested]
    rows = []
    for block, design in planned.blocks.items():
        for arm in design.arms:
            reference = _reference(design.arms, arm)
            own, other = (in_block(block, each.label) for each in (arm, reference))
            cells = [_cell(found[own], {} if arm is reference else found[other]) for found in values]
            rows.append(Row(arm, block, reference.label, cells))
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
    return Cell(summary, difference)


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
