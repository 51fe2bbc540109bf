"""A study's section of the report page."""

from typing import Any

from tekapctl.commands.report import charts, drawing
from tekapctl.commands.report.parts import Figure, render
from tekapctl.experiments.studies.result import Result, arm_cells, contrast_cells


def opening(result: Result) -> str:
    """The question, the conclusions, the charts and the tables, as HTML."""
    missing = f"{result.finished} of {result.runs} runs are finished." if result.finished < result.runs else ""
    return render(
        "study.html",
        question=result.question,
        missing=missing,
        conclusions=result.conclusions,
        charts=_charts(result),
        differences=_differences(result),
        contrasts=[row[:-1] for row in contrast_cells(result)],  # the verdicts are in the conclusions
        outcomes=[(outcome.name, arm_cells(result, index)) for index, outcome in enumerate(result.outcomes)],
    )


def _charts(result: Result) -> list[dict[str, Any]]:
    axis, outcome = result.planned.design.axis, result.outcomes[0]
    if axis is None:
        return []
    found = []
    for block in dict.fromkeys(row.block for row in result.rows):
        series: dict[str, list[charts.Point]] = {}
        for row in result.rows:
            cell = row.cells[0]
            if row.block == block and row.arm.series is not None and row.arm.x is not None and cell is not None:
                half = cell.summary.ci_half_width
                point = charts.Point(
                    row.arm.x, outcome.scale * cell.summary.mean, None if half is None else outcome.scale * half
                )
                series.setdefault(row.arm.series, []).append(point)
        picture = charts.over_axis(f"{result.question} {block}", axis, outcome.title, list(series.items()))
        caption = f"{block or outcome.name}: means with 95 % confidence intervals"
        found.append({"legend": drawing.legend(list(series)), "figure": Figure(caption, picture)})
    return found


def _differences(result: Result) -> list[Figure]:
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
