"""What came of a study, as the first part of a report's page."""

from html import escape

from tekapctl.report import chart, drawing
from tekapctl.studies.result import Result
from tekapctl.studies.table import arm_cells, contrast_cells


def opening(result: Result) -> str:
    """The question, the verdict, the chart and both tables, as HTML."""
    told = "".join(f"<li>{escape(sentence)}</li>" for sentence in result.verdict)
    parts = [f"<h2>{escape(result.question)}</h2>"]
    if result.finished < result.runs:
        parts.append(f'<p class="missing">{result.finished} of {result.runs} runs are finished.</p>')
    parts += [f"<ul>{told}</ul>", _charts(result), _differences(result)]
    parts.append(_table([row[:-1] for row in contrast_cells(result)]))  # the verdicts are told above
    for number, outcome in enumerate(result.outcomes):
        parts.append(f"<h3>{escape(outcome.name)}</h3>{_table(arm_cells(result, number))}")
    how = (
        "Means and standard deviations over seeds; differences are found for each seed by itself, with 95 % intervals "
        "of Student's t. p is corrected after Holm for all contrasts of the study together; below 0.05 is "
        "beyond seed noise."
    )
    return f'\n<section>{"".join(parts)}<p class="how">{escape(how)}</p></section>'


def _charts(result: Result) -> str:
    if result.axis is None:
        return ""
    drawn = []
    for block in dict.fromkeys(row.block for row in result.rows):
        series: dict[str, list[chart.Point]] = {}
        for row in result.rows:
            cell = row.cells[0]
            if row.block == block and row.series is not None and row.at is not None and cell is not None:
                series.setdefault(row.series, []).append(chart.Point(row.at, cell.mean, cell.half_interval))
        picture = chart.along(
            f"{result.question} {block}",
            result.axis,
            "top-1 in percent",
            list(series.items()),
        )
        caption = f"{block or 'Top-1'}: means with the 95 % interval of each"
        drawn.append(
            f"{drawing.legend(list(series))}<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"
        )
    return "".join(drawn)


def _differences(result: Result) -> str:
    drawn = []
    for outcome in result.outcomes:
        shown = [
            drawing.Interval(each.contrast, each.difference.mean, each.difference.low, each.difference.high)
            for each in result.estimates
            if each.outcome == outcome.name and each.difference is not None
        ]
        if shown:
            title = f"{outcome.name}, {outcome.unit}" if outcome.unit else outcome.name
            drawn.append(f"<figure><figcaption>{escape(title)}</figcaption>{drawing.intervals(title, shown)}</figure>")
    return "".join(drawn)


def _table(cells: list[list[str]]) -> str:
    head, *body = cells
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    return f'<div class="wide"><table><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table></div>'
