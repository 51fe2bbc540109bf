"""`tekapctl compare`."""

from typing import TYPE_CHECKING, Annotated

import typer

from tekapctl.cli import console, options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.comparison.groups import Group
    from tekapctl.experiments.comparison.table import Row

Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.", rich_help_panel="Output")]
Latex = Annotated[
    bool, typer.Option("--latex", help="Print LaTeX tables (booktabs) instead.", rich_help_panel="Output")
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV instead.", rich_help_panel="Output")]


def chosen_format(**formats: bool) -> str | None:
    """The one output format that was asked for; None for a table on the terminal.

    Raises:
        UsageError: There are several.
    """
    chosen = [name for name, is_chosen in formats.items() if is_chosen]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} are both output formats.", "Choose one of them.")
    return chosen[0] if chosen else None


def compare(
    references: options.FinishedRuns = None,
    name: options.RunsNamed = None,
    every: options.EveryRun = False,
    baseline: options.Baseline = None,
    markdown: Markdown = False,
    latex: Latex = False,
    csv: Csv = False,
    as_json: options.Json = False,
) -> None:
    """Compare finished runs: mean and std over seeds, and paired differences from a baseline.

    Runs that differ only in their seed form a group. Differences are paired by seed, with 95 % confidence intervals
    (Student's t) and p-values with Holm's correction.

    Examples:
    tekapctl compare --name mine
    tekapctl compare --name mine --baseline kd --latex
    """
    from tekapctl.experiments.comparison import groups
    from tekapctl.store.home import Home

    form = chosen_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    show(groups.group(groups.find(Home.default(), references or [], name=name, every=every)), baseline, form)


def show(found: "list[Group]", baseline: str | None, form: str | None) -> None:
    """Compare groups of runs with one of them."""
    from tekapctl.experiments.comparison import groups, table

    against = groups.baseline_of(found, baseline)
    rows = table.compare(found, against)
    if form == "json":
        console.show_json({"baseline": against.label, "groups": [row.to_dict() for row in rows]})
        return
    if form is not None:
        show_cells([table.cells(rows, against.label)], form)
        return
    _show_table(rows, against.label)
    significant = [row.label for row in rows if row.significant]
    few = [row.label for row in rows if row.difference is not None and row.difference.p_value is None]
    if significant:
        console.say(f"significant differences from {against.label} after Holm's correction: {'; '.join(significant)}")
    elif len(few) < len(rows) - 1:
        console.say(f"no difference from {against.label} is significant after Holm's correction")
    apart = [each.label for each in found if not each.first.spec.data.has_test_images_of(against.first.spec.data)]
    if apart:
        console.say(f"not compared with {against.label}, trained or tested on different images: {'; '.join(apart)}")
    if few:
        console.say(f"too few seeds in common for a test: {'; '.join(few)}")


def show_cells(tables: list[list[list[str]]], form: str) -> None:
    """Tables as Markdown, LaTeX or CSV on stdout."""
    from tekapctl.experiments.comparison import table

    write = {"markdown": table.markdown, "latex": table.latex, "csv": table.comma_separated}[form]
    console.show_text("\n".join(write(cells) for cells in tables).rstrip("\n"))


def _show_table(rows: "list[Row]", baseline: str) -> None:
    from tekapctl.experiments.comparison.table import difference_cells, number, p_text

    def percent(value: float | None) -> str:
        return number(value, scale=100.0)

    cells = [
        (
            *(row.label, str(row.top1.seeds), percent(row.top1.mean), percent(row.top1.std)),
            *(*difference_cells(row.difference, 100.0), p_text(row.p_holm)),
            *(percent(row.best_top1), percent(row.agreement), f"{row.parameters:,}", console.duration(row.seconds)),
        )
        for row in rows
    ]
    console.show_table(
        "",
        [
            *("method", "n>", "top-1 %>", "std>", f"Δ {baseline}>", "95 % CI>", "p (Holm)>"),
            *("best %>", "agree %>", "parameters>", "time>"),
        ],
        cells,
        optional=("time", "parameters", "agree %", "best %"),
    )
