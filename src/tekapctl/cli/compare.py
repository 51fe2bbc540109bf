"""`tekapctl compare`."""

from collections.abc import Mapping, Sequence
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Annotated, Any

from tekapctl.cli import console, listings, options
from tekapctl.cli.options import option
from tekapctl.errors import UsageError
from tekapctl.logging import ROOT
from tekapctl.store.home import Home

if TYPE_CHECKING:
    from tekapctl.experiments.comparison.groups import Finished, Group

Markdown = Annotated[bool, option("--markdown", "Print Markdown tables instead.", "Output")]
Latex = Annotated[bool, option("--latex", "Print LaTeX tables (booktabs) instead.", "Output")]
Csv = Annotated[bool, option("--csv", "Print CSV instead.", "Output")]


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
    names: options.RunsNamed = None,
    every: options.EveryRun = False,
    baseline: options.Baseline = None,
    by_pair: Annotated[
        bool,
        option(
            "--by-pair", "Table for papers: a row for each method, a column for each teacher/student pair.", "Output"
        ),
    ] = False,
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
    tekapctl compare --name mine --baseline kd
    tekapctl compare --name mine --name others --by-pair --latex
    """
    form = chosen_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    request = [references or [], names or [], every, baseline, by_pair, _state_of_all_runs()]
    found = listings.kept("compare", request)
    if found is None:
        from tekapctl.experiments.comparison import groups

        said = BufferingHandler(1000)
        ROOT.addHandler(said)
        runs = groups.find(Home.default(), references or [], names=names or [], every=every)
        found = paired(runs, baseline) if by_pair else compared(groups.group(runs), baseline)
        if not said.buffer:  # else the next time would have to say the same
            listings.keep("compare", found, request)
    show(found, form)


def _state_of_all_runs() -> list[list[Any]]:
    """Changes whenever a comparison can change."""
    from tekapctl.store.runs import Runs

    found = []
    for run in Runs(Home.default().runs).all():
        files = [run.path / name for name in ("spec.toml", "summary.json", "run.json")]
        stats = [file.stat() for file in files if file.is_file()]
        found.append([run.id, run.status, *([stat.st_mtime_ns, stat.st_size] for stat in stats)])
    return found


def compared(found: "list[Group]", baseline: str | None) -> dict[str, Any]:
    """A comparison of groups of runs with one of them, in all forms in which it can be shown."""
    from tekapctl.experiments.comparison import groups, table

    against = groups.baseline_of(found, baseline)
    rows = table.compare(found, against)
    cells = table.cells(rows, against.label)
    shown = []
    for row in rows:
        difference, interval = table.difference_cells(row.difference, 100.0)
        shown.append(
            {
                "method": row.label,
                "n>": str(row.top1.seeds),
                "top-1 %>": console.percent(row.top1.mean),
                "std>": console.percent(row.top1.std),
                "Δ>": difference,
                "95 % CI>": interval,
                "p (Holm)>": table.p_text(row.p_holm),
                "best %>": console.percent(row.best_top1),
                "agree %>": console.percent(row.agreement),
                "parameters>": f"{row.parameters:,}",
                "time>": console.duration(row.seconds),
            }
        )
    significant = [row.label for row in rows if row.significant]
    few = [row.label for row in rows if row.difference is not None and row.difference.p_value is None]
    apart = [each.label for each in found if not each.first.spec.data.has_test_images_of(against.first.spec.data)]
    notes = [f"Δ is the difference from {against.label}"] if len(rows) > 1 else []
    fewer = [f"{row.label} ({row.difference.pairs})" for row in rows if row.difference and row.has_fewer_pairs]
    if fewer:
        notes.append(f"Δ is over the seeds that both have, fewer than n: {'; '.join(fewer)}")
    if significant:
        notes.append(f"significant differences from {against.label} after Holm's correction: {'; '.join(significant)}")
    elif len(few) < len(rows) - 1:
        notes.append(f"no difference from {against.label} is significant after Holm's correction")
    if apart:
        notes.append(f"not compared with {against.label}, trained or tested on different images: {'; '.join(apart)}")
    if few:
        notes.append(f"too few seeds in common for a test: {'; '.join(few)}")
    if mixed := groups.different_hardware(run for each in found for run in each.runs.values()):
        notes.append(mixed)
    return {
        "json": {"baseline": against.label, "groups": [row.to_dict() for row in rows]},
        **{form: text_of([cells], form) for form in ("markdown", "latex", "csv")},
        "table": shown,
        "notes": notes,
    }


def paired(runs: "list[Finished]", baseline: str | None) -> dict[str, Any]:
    """A table of methods and pairs, in all forms in which it can be shown."""
    from tekapctl.experiments.comparison import groups, pair_formats, pairs

    table = pairs.by_pair(runs, baseline)
    columns = ["method", *(f"{head}>" for head in pair_formats.heads(table))]
    notes = pair_formats.caption(table, bold=False)
    for label, fields in table.varying.items():
        notes.append(f"not the same for all pairs: {', '.join(fields)} of {label}")
    if table.left_out:
        notes.append(f"left out, because they were not distilled: {', '.join(table.left_out)}")
    if mixed := groups.different_hardware(runs):
        notes.append(mixed)
    return {
        "json": table.to_dict(),
        "markdown": pair_formats.pairs_markdown(table).rstrip("\n"),
        "latex": pair_formats.pairs_latex(table).rstrip("\n"),
        "csv": pair_formats.pairs_csv(table).rstrip("\n"),
        "table": [dict(zip(columns, row, strict=True)) for row in pair_formats.plain_cells(table)],
        "notes": notes,
    }


def show(found: Mapping[str, Any], form: str | None) -> None:
    """Show a comparison."""
    if form == "json":
        console.show_json(found["json"])
    elif form is not None:
        console.show_text(console.printable(found[form]))
    else:
        console.show_table("", found["table"], optional=("time>", "parameters>", "agree %>", "best %>"))
        for note in found["notes"]:
            console.say(note)


def text_of(tables: Sequence[Sequence[Sequence[str]]], form: str) -> str:
    """Tables as Markdown, LaTeX or CSV."""
    from tekapctl.experiments.comparison import table

    write = {"markdown": table.markdown, "latex": table.latex, "csv": table.comma_separated}[form]
    return "\n".join(write(cells) for cells in tables).rstrip("\n")
