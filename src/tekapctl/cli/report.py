"""`tekapctl report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tekapctl.cli import console, options
from tekapctl.cli.options import option
from tekapctl.store.home import Home, output_file

if TYPE_CHECKING:
    from tekapctl.experiments.comparison.groups import Group

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}
"""Characters that steer terminals, as they are shown."""


def report(
    references: options.FinishedRuns = None,
    output: Annotated[Path, option("-o --output FILE", "HTML file to write.", "Output")] = Path("report.html"),
    names: options.RunsNamed = None,
    every: options.EveryRun = False,
    baseline: options.Baseline = None,
    figures: Annotated[
        Path | None, option("--figures DIR", "Also write PDF and SVG figures for a paper.", "Output")
    ] = None,
    force: options.Force = False,
) -> None:
    """Write a self-contained HTML report about finished runs.

    It shows accuracies, learning curves, confusion matrices, class correlations, embeddings and specs.

    Example: tekapctl report --name mine --baseline kd --output mine.html
    """
    from tekapctl.experiments.comparison import groups, table

    output = output_file(output, Home.default(), force=force)
    if figures is not None:
        from tekapctl.report.figures import figure_files, write_figures

        files = figure_files(figures, Home.default(), force=force)
    found = groups.group(groups.find(Home.default(), references or [], names=names or [], every=every))
    write(found, baseline, output)
    if figures is not None:
        against = groups.baseline_of(found, baseline)
        for file in write_figures(found, table.compare(found, against), against, files):
            console.show_text(console.printable(str(file)))


def write(found: "list[Group]", baseline: str | None, output: Path, *, quiet: bool = False, opening: str = "") -> None:
    """Write the page about groups of runs, and say so, on stderr if `quiet`; `opening` is HTML at its top."""
    from tekapctl.experiments.comparison import groups, table
    from tekapctl.report.page import page
    from tekapctl.report.predictions import Predictor

    against = groups.baseline_of(found, baseline)
    text = page(found, against, table.compare(found, against), Predictor(Home.default()), opening)
    write_page(output, text, quiet=quiet)


def write_page(output: Path, text: str, *, quiet: bool = False) -> None:
    """Write an HTML page as a whole and say so, on stderr if `quiet`."""
    from tekapctl.store.atomic import atomic_path

    with atomic_path(output) as (part,):
        # Names of classes and files may hold anything.
        part.write_text(text.translate(_CONTROLS), encoding="utf-8", errors="backslashreplace")
    line = console.printable(f"{output}, {console.format_bytes(output.stat().st_size)}")
    (console.say if quiet else console.show_text)(line)
