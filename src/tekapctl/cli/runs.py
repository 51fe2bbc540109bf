"""`tekapctl runs`: list, show, compare, verify and remove runs."""

import json
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import bundles, complete, console, listings, options, run_diff
from tekapctl.cli.options import argument, option
from tekapctl.errors import TekapctlError, UsageError, counted
from tekapctl.store.home import Home

if TYPE_CHECKING:
    from tekapctl.store.runs import Runs

app = typer.Typer(
    no_args_is_help=True,
    help="List, compare, verify, remove, export and import runs.\n\n"
    "Examples:\n"
    "tekapctl runs list --sort last_top1 --reverse\n"
    "tekapctl runs show latest\n"
    "tekapctl runs export latest --output run.tar",
)
Values = list[str] | None


def _all() -> "Runs":
    from tekapctl.store.runs import Runs

    return Runs(Home.default().runs)


@app.command("list")
def list_runs(
    name: Annotated[Values, option("--name NAME", "Only runs with this --name. Repeatable.", "Filter")] = None,
    dataset: Annotated[
        Values,
        option("-d --dataset NAME", "Only runs on this dataset. Repeatable.", "Filter", complete=complete.datasets),
    ] = None,
    method: Annotated[
        Values, option("--method NAME", "Only runs of this method. Repeatable.", "Filter", complete=complete.methods)
    ] = None,
    model: Annotated[
        Values,
        option("-m --model NAME", "Only runs that train this network. Repeatable.", "Filter", complete=complete.models),
    ] = None,
    teacher: Annotated[
        Values,
        option(
            "--teacher RUN|NAME", "Only runs taught by this teacher. Repeatable.", "Filter", complete=complete.teachers
        ),
    ] = None,
    status: Annotated[
        Values,
        option(
            "--status STATUS",
            "Only runs with this status, such as finished or interrupted. Repeatable.",
            "Filter",
            complete=complete.statuses,
        ),
    ] = None,
    sort: Annotated[
        str | None,
        option(
            "--sort COLUMN",
            "Sort by a column of the JSON output, such as last_top1 or seconds. [default: oldest first]",
            "Output",
            complete=complete.run_columns,
        ),
    ] = None,
    reverse: Annotated[bool, option("--reverse", "Reverse the order.", "Output")] = False,
    limit: Annotated[
        int | None,
        option("-n --limit N", "Show N runs: the first with --sort or --reverse, else the newest.", "Output", min=1),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List runs, oldest first. All commands accept the short IDs in the first column.

    Examples:
    tekapctl runs list --limit 10
    tekapctl runs list --dataset cifar100 --method crd --sort last_top1 --reverse
    tekapctl runs list --status interrupted
    """
    from tekapctl.commands import run_list

    filters = {"name": name, "dataset": dataset, "method": method, "model": model, "teacher": teacher, "status": status}
    wanted = {column: values for column, values in filters.items() if values}
    everything = run_list.rows_of(_all().all(), listings.fields_after_colon())
    rows = run_list.select(everything, wanted)
    if sort is not None or reverse:
        rows = run_list.ordered(rows, sort or "run", reverse=reverse)[:limit]
    elif limit is not None:
        rows = rows[-limit:]
    if as_json:
        console.show_json(rows)
    elif not everything:
        console.say("There are no runs yet. Start with `tekapctl demo`, `train-teacher` or `distill`.")
    elif not rows:
        console.say(run_list.missing(everything, wanted) or "No run has all of these.")
    else:
        _show_list(rows)


def _show_list(rows: list[dict[str, Any]]) -> None:
    console.show_table(
        "",
        [
            {
                "id=": row["id"],
                "status=": row["status"],
                "dataset": _short(row["dataset"] or ""),
                "model": row["model"] or "",
                "method": row["method"] or "",
                "seed>": "" if row["seed"] is None else str(row["seed"]),
                "epochs>": str(row["epoch"])
                if row["epochs"] in (None, row["epoch"])
                else f"{row['epoch']}/{row['epochs']}",
                "last %>": console.percent(row["last_top1"]),
                "best %>": console.percent(row["best_top1"]),
                "time>": "" if row["seconds"] is None else console.duration(row["seconds"]),
                "name": row["name"] or "",
                "teacher": row["teacher"] or "",
                "run=": row["run"],
            }
            for row in rows
        ],
        optional=("run=", "teacher", "name", "time>", "best %>"),
    )


def _short(dataset: str) -> str:
    """A dataset's name, of a folder's path the last part."""
    kind, colon, path = dataset.partition(":")
    return f"{kind}:{Path(path).name}" if colon and Path(path).is_absolute() else dataset


@app.command("show")
def show(reference: options.RunReference, as_json: options.Json = False) -> None:
    """Show the status, results and spec of a run.

    Example: tekapctl runs show latest
    """
    from tekapctl.commands.run_list import row_of

    run = _all().find(reference)
    row, path = row_of(run, listings.fields_after_colon()), run.path / "spec.toml"
    try:
        spec = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError as error:
        raise TekapctlError(f"The run {run.id} cannot be read: {error}.", "Check the rights of its folder.") from None
    if as_json:
        table = None
        with suppress(ValueError, TypeError, RecursionError):  # damaged, or with a value that JSON does not have
            json.dumps(parsed := tomllib.loads(spec), allow_nan=False)
            table = parsed
        console.show_json({**row, "path": str(run.path), "spec": table, "summary": run.summary()})
        return
    fields = {name: _in_words(name, value) for name, value in row.items() if value is not None}
    fields["path"] = str(run.path)
    if run.left_out:
        fields["imported"] = f"without {', '.join(sorted(run.left_out))}"
    console.show_fields(fields)
    problem = run.summary_problem()
    why = f"its summary is damaged: {problem}" if problem else (run.summary() or {}).get("error")
    if why:
        console.show_text(f"error: {console.printable(str(why))}")
    console.show_text("\n" + console.printable(spec))


def _in_words(name: str, value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return console.duration(value) if name == "seconds" else f"{console.percent(value)} %"


app.command("diff")(run_diff.diff)


@app.command("verify")
def verify(
    references: Annotated[
        list[str] | None, argument("[RUN]...", "Runs to check. [default: all]", complete=complete.runs)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check the files of runs against their checksums. Exits with 1 if anything is wrong.

    Example: tekapctl runs verify latest
    """
    from tekapctl.commands.runs import verify as check

    runs = _all()
    found = [runs.find(reference) for reference in references] if references else runs.all()
    verified = [check(run) for run in dict.fromkeys(found)]
    if as_json:
        console.show_json(verified)
    else:
        for each in verified:
            files = f"{counted(each.files, 'checksum')} right"
            if each.left_out:
                files += f", imported without {', '.join(each.left_out)}"
            console.show_text(console.printable(f"{each.run}: {each.status}, {' '.join(each.problems) or files}"))
    if any(each.problems for each in verified):
        raise typer.Exit(1)


@app.command("rm")
def remove(
    references: Annotated[list[str], argument("RUN...", "Runs to remove.", complete=complete.runs)],
    yes: options.Yes = False,
    force: Annotated[bool, option("--force", "Also remove runs that taught other runs.")] = False,
) -> None:
    """Remove runs with their weights and checkpoints.

    A run that taught other runs is kept unless they are removed with it: they need it to be resumed or reported.

    Example: tekapctl runs rm 20260101-120000 --yes
    """
    from tekapctl.store.runs import taught_by

    runs = _all()
    found = list(dict.fromkeys(runs.find(reference) for reference in references))
    for run in found:
        if run.status == "running":
            raise UsageError(f"The run {run.id} is running.", "Stop it first.")
        students = [student.id for student in taught_by(run, runs) if student not in found]
        if students and not force:
            more = f" and {len(students) - 3} more" if len(students) > 3 else ""
            raise UsageError(
                f"{run.id} taught {len(students)} of the other runs: {', '.join(students[:3])}{more}.",
                "Remove them with it, or remove it alone with --force.",
            )
    if len(found) > 1 and not yes:
        for run in found:
            console.say(run.id)
    what = found[0].id if len(found) == 1 else f"these {len(found)} runs"
    if yes or typer.confirm(f"Remove {what}?", err=True):
        for run in found:
            runs.remove(run)
            console.say(f"removed {run.id}")


app.command("export")(bundles.export_runs)
app.command("import")(bundles.import_runs)
