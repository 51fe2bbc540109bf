"""`tekapctl runs`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import console, options
from tekapctl.errors import TekapctlError

if TYPE_CHECKING:
    from tekapctl.store.run import Run
    from tekapctl.store.runs import Runs

app = typer.Typer(no_args_is_help=True, help="List, show, verify and remove runs.\n\nExample: tekapctl runs list")
Reference = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, a unique prefix of it, or latest.")]


def _runs() -> "Runs":
    from tekapctl.store.home import Home
    from tekapctl.store.runs import Runs

    return Runs(Home.default().runs)


def _row(run: "Run") -> dict[str, Any]:
    summary = run.summary() or {}
    metrics = run.metrics()
    last = metrics[-1] if metrics else {}
    seconds = summary.get("seconds")
    return {
        "run": run.id,
        "status": run.status,
        "epoch": last.get("epoch", 0),
        "last_top1": last.get("test_top1"),
        "best_top1": max((entry["test_top1"] for entry in metrics if "test_top1" in entry), default=None),
        "seconds": seconds if isinstance(seconds, (int, float)) else None,
    }


@app.command("list")
def list_runs(as_json: options.Json = False) -> None:
    """List all runs, oldest first.

    Example: tekapctl runs list
    """
    rows = [_row(run) for run in _runs().all()]
    if as_json:
        console.show_json(rows)
        return
    if not rows:
        console.say("There are no runs yet. Make some with `tekapctl demo`, `train-teacher` or `distill`.")
        return

    def share(value: float | None) -> str:
        return "" if value is None else console.percent(value)

    console.show_narrow_table(
        ["run", "status", "epochs>", "last %>", "best %>", "time>"],
        [
            (
                row["run"],
                row["status"],
                str(row["epoch"]),
                share(row["last_top1"]),
                share(row["best_top1"]),
                "" if row["seconds"] is None else console.duration(row["seconds"]),
            )
            for row in rows
        ],
    )


@app.command("show")
def show(reference: Reference, as_json: options.Json = False) -> None:
    """Show a run: its status, numbers and spec.

    Example: tekapctl runs show latest
    """
    run = _runs().find(reference)
    row = _row(run)
    spec_path = run.path / "spec.toml"
    try:
        spec = spec_path.read_text(encoding="utf-8", errors="replace") if spec_path.is_file() else ""
    except OSError as error:
        raise TekapctlError(f"The run {run.id} cannot be read: {error}.", "Look at the rights of its folder.") from None
    if as_json:
        console.show_json({**row, "path": str(run.path), "spec": spec, "summary": run.summary()})
        return
    console.show_fields(
        {name: "" if value is None else str(value) for name, value in row.items()} | {"path": str(run.path)}
    )
    problem = run.summary_problem()
    why = f"its summary is damaged: {problem}" if problem else (run.summary() or {}).get("error")
    if why:
        console.show_text(f"error: {console.printable(str(why))}")
    console.show_text("\n" + console.printable(spec))


@app.command("verify")
def verify(
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to check; all if none.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check the files of runs against their checksums; the exit code is 1 if anything is wrong.

    Example: tekapctl runs verify latest
    """
    from tekapctl.commands.verify import verify as check

    runs = _runs()
    found = [runs.find(reference) for reference in references] if references else runs.all()
    verified = [check(run) for run in dict.fromkeys(found)]
    if as_json:
        console.show_json([each.to_dict() for each in verified])
    else:
        for each in verified:
            files = f"{each.files} checksum{'' if each.files == 1 else 's'} right"
            console.show_text(console.printable(f"{each.run}: {each.status}, {' '.join(each.problems) or files}"))
    if any(each.problems for each in verified):
        raise typer.Exit(1)


@app.command("remove")
def remove(
    references: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs to remove.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with their weights and checkpoints.

    Example: tekapctl runs remove 20260101-120000 --yes
    """
    runs = _runs()
    found = [runs.find(reference) for reference in references]
    for run in dict.fromkeys(found):
        if yes or typer.confirm(f"Remove {run.id}?", err=True):
            runs.remove(run)
            console.say(f"removed {run.id}")
