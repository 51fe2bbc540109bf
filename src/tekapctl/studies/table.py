"""What came of a study as tables of texts."""

from tekapctl.studies.result import Result


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
