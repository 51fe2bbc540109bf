"""What came of a study as tables of texts."""

from html import escape

from tekapctl.commands.report import charts, drawing
from tekapctl.experiments.studies.result import Result


def arm_cells(result: Result, number: int) -> list[list[str]]:
    """The arms with one of the outcomes, the head first."""
    outcome = result.outcomes[number]
    named = len({row.block for row in result.rows}) > 1
    against = {row.against for row in result.rows}
    less = f"less {against.pop()}" if len(against) == 1 else "less the first there"
    head = ["arm", "seeds", outcome.title, "deviation", less, "95 % interval"]
    table = [["block", *head] if named else head]
    for row in result.rows:
        cell = row.cells[number]
        texts = [row.arm, *[""] * 5]
        if cell is not None:
            found = cell.less_first
            texts = [
                row.arm,
                str(cell.seeds),
                f"{cell.mean:.{outcome.digits}f}",
                "" if cell.deviation is None else f"{cell.deviation:.{outcome.digits}f}",
                "" if found is None else f"{found.mean:+.{outcome.digits}f}",
                "" if found is None else _interval(found.low, found.high, outcome.digits),
            ]
        table.append([row.block, *texts] if named else texts)
    if outcome.is_tested:
        return table
    # What is counted and not measured does not vary with the seed.
    return [[*line[:-3], line[-2]] for line in table]


def contrast_cells(result: Result) -> list[list[str]]:
    """The contrasts with what may be said of them, the head first."""
    named = len(result.outcomes) > 1
    head = ["contrast", "difference", "95 % interval", "p, Holm", "verdict"]
    table = [["outcome", *head] if named else head]
    for each in result.estimates:
        found, places = each.difference, result.digits(each.outcome)
        texts = [
            each.contrast,
            "" if found is None else f"{found.mean:+.{places}f} {each.unit}".rstrip(),
            "" if found is None else _interval(found.low, found.high, places),
            "" if each.corrected is None else f"{each.corrected:.3f}",
            each.verdict,
        ]
        table.append([each.outcome, *texts] if named else texts)
    return table


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{low:+.{digits}f} to {high:+.{digits}f}"


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
        series: dict[str, list[charts.Point]] = {}
        for row in result.rows:
            cell = row.cells[0]
            if row.block == block and row.series is not None and row.at is not None and cell is not None:
                series.setdefault(row.series, []).append(charts.Point(row.at, cell.mean, cell.half_interval))
        picture = charts.along(
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
