"""`tekapctl compare`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
    from tekapctl.experiments.comparison.groups import Group

Format = Literal["terminal", "markdown", "latex", "csv", "json"]


def compare(
    references: options.FinishedRuns = None,
    name: options.RunsNamed = None,
    every: options.EveryRun = False,
    baseline: options.Baseline = None,
    form: Annotated[Format, typer.Option("--format", help="How to write the table.")] = "terminal",
) -> None:
    """Compare runs: mean and deviation over seeds, and paired differences with their intervals.

    Example: tekapctl compare --name mine --baseline kd
    """
    from tekapctl.experiments.comparison import groups
    from tekapctl.store.home import Home

    found = groups.group(
        groups.find(
            Home.default(),
            references or [],
            name=name,
            every=every,
        )
    )
    show(found, baseline, form)


def show(found: "list[Group]", baseline: str | None, form: Format) -> None:
    """Compare groups of runs with one of them, and show what comes of it."""
    from tekapctl.experiments.comparison import groups, table

    against = groups.baseline_of(found, baseline)
    rows = table.compare(found, against)
    if form == "json":
        console.show_json({"baseline": against.label, "groups": [row.to_dict() for row in rows]})
        return
    cells = table.cells(rows, against.label)
    if form != "terminal":
        write = {"markdown": table.markdown, "latex": table.latex, "csv": table.comma_separated}[form]
        console.show_text(write(cells).rstrip("\n"))
        return
    console.show_table("", [cells[0][0], *(f"{column}>" for column in cells[0][1:])], cells[1:])
    significant = [row.label for row in rows if row.significant]
    few = [row.label for row in rows if row.difference is not None and row.difference.p_value is None]
    if significant:
        console.say(f"significant after Holm correction (α = 0.05): {'; '.join(significant)}")
    elif len(few) < len(rows) - 1:
        console.say(f"no difference from {against.label} is significant after Holm correction")
    apart = [each.label for each in found if not each.first.spec.data.has_test_images_of(against.first.spec.data)]
    if apart:
        console.say(f"not compared with {against.label}, trained or tested on different images: {'; '.join(apart)}")
    if few:
        console.say(f"too few seeds for a significance test: {'; '.join(few)}")
