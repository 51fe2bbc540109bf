"""The report page: one self-contained HTML file about groups of runs, and a study if they are of one."""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tekapctl import __version__
from tekapctl.errors import TekapctlError, counted
from tekapctl.experiments.comparison.groups import Group, different_hardware
from tekapctl.experiments.comparison.table import COLUMNS, Row, cells
from tekapctl.experiments.studies.result import Result, arm_cells, contrast_cells
from tekapctl.report import drawing, sections
from tekapctl.report.predictions import Predictions, Predictor
from tekapctl.report.sections import Figure, Section
from tekapctl.report.svg import COLOURS
from tekapctl.spec import dumps

logger = logging.getLogger(__name__)


def page(groups: Sequence[Group], baseline: Group, rows: Sequence[Row], predictor: Predictor, opening: str = "") -> str:
    """The whole page, as HTML without external resources.

    A study's section, from `opening`, replaces the table's own significance tests.
    """
    summaries = [one.summary for group in groups for one in group.runs.values()]
    by_validation = [summary for summary in summaries if "best_val_top1" in summary]
    chosen = "validation" if len(by_validation) == len(summaries) else "validation or" if by_validation else "test"
    how = (
        "Mean and standard deviation over seeds after the last epoch. The best epoch was selected on the "
        f"{chosen}{' test' if chosen == 'validation or' else ''} images."
    )
    if not opening:
        how += (
            " Differences are paired by seed, with 95 % Student's t intervals; p-values are Holm-corrected for all "
            "comparisons of the table."
        )
    # A study has tested its contrasts already: a second p-value with another correction would contradict them.
    table = [row[: len(COLUMNS)] if opening else row for row in cells(rows, baseline.label)]
    notes, networks = _networks(groups, baseline, predictor)
    mixed = different_hardware(run for group in groups for run in group.runs.values())
    found = [sections.training(groups), sections.diversity(groups), *networks]
    return render(
        "page.html",
        title=_title(groups),
        lead=_lead(groups, baseline),
        opening=Markup(opening),
        accuracy_how=how,
        cells=table,
        baseline=baseline.label,
        differences=None if opening else _differences(rows, baseline),
        sections=[each for each in found if each is not None],
        notes=[*notes, *([f"The runs were {mixed}."] if mixed else [])],
        groups=[
            {
                "label": group.label,
                "runs": ", ".join(group.runs[seed].run.id for seed in sorted(group.runs)),
                "spec": dumps(group.first.spec),
            }
            for group in groups
        ],
        version=__version__,
        date=f"{datetime.now().astimezone():%Y-%m-%d}",
    )


def _title(groups: Sequence[Group]) -> str:
    specs = [group.first.spec for group in groups]
    networks = list(dict.fromkeys(spec.network for spec in specs))
    data = list(dict.fromkeys(spec.data.name for spec in specs))
    few = networks if len(networks) < 4 else [*networks[:3], "others"]
    return f"{', '.join(few)} on {', '.join(data)}"


def _lead(groups: Sequence[Group], baseline: Group) -> str:
    runs = sum(len(group.runs) for group in groups)
    seeds = sorted({seed for group in groups for seed in group.runs})
    teachers = list(
        dict.fromkeys(
            f"{found['model']} ({100 * found['top1']:.2f} %)"
            for group in groups
            for one in group.runs.values()
            if (found := one.summary.get("teacher")) and isinstance(found.get("top1"), float)
        )
    )
    taught = f" Teacher{'s' * (len(teachers) > 1)}: {', '.join(teachers)}." if teachers else ""
    return (
        f"{counted(runs, 'run')} in {counted(len(groups), 'group')}, seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}.{taught} Baseline: {baseline.label}."
    )


def _differences(rows: Sequence[Row], baseline: Group) -> Figure | None:
    found = [drawing.Interval.of(row.label, row.difference, 100.0) for row in rows if row.difference is not None]
    if not found:
        return None
    caption = (
        f"Top-1 difference from {baseline.label}, in percentage points. An interval that crosses zero is not "
        "significant; of several that do not, the corrected p-values in the table say which are."
    )
    return Figure(caption, drawing.intervals(f"Differences from {baseline.label}", found))


def _networks(groups: Sequence[Group], baseline: Group, predictor: Predictor) -> tuple[list[str], list[Section | None]]:
    """Notes about networks that cannot be loaded, and the sections that need the networks."""
    students: dict[str, Predictions] = {}
    teachers: dict[str, Predictions] = {}
    notes: list[str] = []
    for group in groups:
        logger.info(f"evaluating {group.label}")
        whose = group.label
        try:
            students[group.label] = predictor.student(group)
            whose = f"The teacher of {group.label}"
            teacher = predictor.teacher(group)
            if teacher is not None:
                teachers[group.label] = teacher
        except TekapctlError as error:
            notes.append(f"{whose} is missing from the figures of predictions: {error.problem}")
    return notes, [
        sections.gains(groups, baseline),
        sections.confusions(students),
        sections.correlations(students, teachers),
        sections.embeddings(students, teachers),
    ]


def opening(result: Result) -> str:
    """A study's section of the page: the question, the conclusions, the charts and the tables, as HTML."""
    missing = f"{result.finished} of {result.runs} runs are finished." if result.finished < result.runs else ""
    return render(
        "study.html",
        question=result.question,
        missing=missing,
        conclusions=result.conclusions,
        charts=_charts(result),
        differences=_contrasts(result),
        contrasts=[row[:-1] for row in contrast_cells(result)],  # the verdicts are in the conclusions
        outcomes=[(outcome.name, arm_cells(result, index)) for index, outcome in enumerate(result.outcomes)],
    )


def _charts(result: Result) -> list[tuple[str, Figure]]:
    """A chart of the first outcome over the study's axis for each block, with its legend."""
    axis, outcome = result.planned.design.axis, result.outcomes[0]
    found = []
    for block in dict.fromkeys(row.block for row in result.rows) if axis is not None else ():
        series: dict[str, list[drawing.Point]] = {}
        for row in result.rows:
            cell = row.cells[0]
            if row.block == block and row.arm.series is not None and row.arm.x is not None and cell is not None:
                mean, half = cell.summary.mean, cell.summary.ci_half_width or 0.0
                values = (outcome.scale * value for value in (mean, mean - half, mean + half))
                series.setdefault(row.arm.series, []).append(drawing.Point(row.arm.x, *values))
        lines = [drawing.Line(label, sorted(points)) for label, points in series.items()]
        picture = drawing.over_axis(f"{result.question} {block}", str(axis), outcome.title, lines)
        caption = f"{block or outcome.name}: means with 95 % confidence intervals"
        found.append((drawing.legend(list(series)), Figure(caption, picture)))
    return found


def _contrasts(result: Result) -> list[Figure]:
    figures = []
    for outcome in result.outcomes:
        shown = [
            drawing.Interval.of(each.contrast.label, each.difference, outcome.scale)
            for each in result.estimates
            if each.outcome is outcome and each.difference is not None
        ]
        if shown:
            unit = outcome.difference_unit
            title = f"{outcome.name}, difference{f' ({unit})' if unit else ''}"
            figures.append(Figure(title, drawing.intervals(title, shown)))
    return figures


def render(template: str, **values: Any) -> Markup:
    """Fill a template; texts are escaped."""
    return Markup(_environment().get_template(template).render(**values, colours=COLOURS))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tekapctl.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
