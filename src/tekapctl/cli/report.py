"""`tekapctl report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tekapctl.cli import console, options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.comparison.groups import Group


def report(
    references: options.FinishedRuns = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    name: options.RunsNamed = None,
    every: options.EveryRun = False,
    baseline: options.Baseline = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write one HTML page about runs: accuracies, curves, confusions, correlations of classes, embeddings, specs.

    Example: tekapctl report --name mine --baseline kd --output mine.html
    """
    from tekapctl.comparison import groups
    from tekapctl.store.home import Home

    output = writable(output, force=force)
    found = groups.group(groups.find(Home.default(), references or [], name=name, every=every, say=console.say))
    write(found, baseline, output)


def writable(output: Path, *, force: bool) -> Path:
    """The file that a user named to be written.

    Raises:
        UsageError: It is a folder, or is there already and is not to be replaced.
    """
    output = output.expanduser()
    if output.is_dir():
        raise UsageError(f"{output} is a folder.", "Name a file with --output.")
    if output.exists() and not force:
        raise UsageError(f"{output} is there already.", "Name another --output, or replace it with --force.")
    return output


def write(found: "list[Group]", baseline: str | None, output: Path, *, quiet: bool = False, opening: str = "") -> None:
    """Write the page about groups of runs, and say so unless stdout is for something else.

    Args:
        found: The groups.
        baseline: The one that others are compared with.
        output: The file.
        quiet: Say so on stderr.
        opening: What the page has before all else, as HTML.
    """
    from tekapctl.comparison import groups, table
    from tekapctl.report.look import Looker
    from tekapctl.report.page import page
    from tekapctl.store.aside import aside
    from tekapctl.store.home import Home

    against = groups.baseline_of(found, baseline)
    text = page(found, against, table.compare(found, against), Looker(Home.default()), console.say, opening)
    with aside(output) as part:
        part.write_text(text, encoding="utf-8")
    (console.say if quiet else console.show_text)(f"{output}, {console.size(output.stat().st_size)}")
