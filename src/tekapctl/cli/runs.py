"""`tekapctl runs`."""

import json
import tomllib
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.cli.options import argument
from tekapctl.errors import TekapctlError
from tekapctl.store.home import Home
from tekapctl.store.metrics import has_top1, top1_of

if TYPE_CHECKING:
    from tekapctl.store.run import Run
    from tekapctl.store.runs import Runs

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, verify and remove runs.\n\nExamples:\ntekapctl runs list\ntekapctl runs show latest",
)


def _all() -> "Runs":
    from tekapctl.store.runs import Runs

    return Runs(Home.default().runs)


def _row(run: "Run") -> dict[str, Any]:
    summary, metrics = run.summary() or {}, run.metrics()
    last, seconds = metrics[-1] if metrics else {}, summary.get("seconds")
    return {
        "run": run.id,
        "status": run.status,
        **_described(run),
        "epoch": last.get("epoch", 0),
        "last_top1": _fraction(summary.get("last_top1"), top1_of(last) if has_top1(last) else None),
        "best_top1": _fraction(
            summary.get("best_top1"), max((top1_of(entry) for entry in metrics if has_top1(entry)), default=None)
        ),
        "seconds": seconds if isinstance(seconds, (int, float)) else None,
    }


def _fraction(final: Any, so_far: float | None) -> float | None:
    """The accuracy of a finished run, on the test images, or that of the epochs so far."""
    return float(final) if isinstance(final, int | float) else so_far


def _described(run: "Run") -> dict[str, Any]:
    """What a run's spec says, read as plain TOML: checking it would import PyTorch."""
    try:
        spec = tomllib.loads((run.path / "spec.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        spec = {}
    data, method = (
        value if isinstance(value, dict) else {"name": value} for value in (spec.get("data"), spec.get("method"))
    )
    dataset = data.get("hub") or data.get("name")
    if "hub" not in data and dataset in ("folder", "imagenet") and data.get("folder"):
        dataset = f"{dataset}:{data['folder']}"
    is_student = spec.get("kind") == "student"
    found = {
        "kind": spec.get("kind"),
        "dataset": dataset,
        "method": method.get("name") if is_student else None,
        "model": spec.get("student") if is_student else spec.get("model"),
        "teacher": spec.get("teacher") if is_student else None,
        "name": spec.get("name"),
    }
    texts = {field: value if isinstance(value, str) else None for field, value in found.items()}
    numbers = {field: value if type(value := spec.get(field)) is int else None for field in ("seed", "epochs")}
    return {**texts, **numbers}


@app.command("list")
def list_runs(as_json: options.Json = False) -> None:
    """List all runs, oldest first. All commands accept the short IDs in the first column.

    Example: tekapctl runs list
    """
    rows = [_row(run) for run in _all().all()]
    ends = Counter(row["run"].rpartition("-")[2] for row in rows)
    for row in rows:
        end = row["run"].rpartition("-")[2]
        row["id"] = end if ends[end] == 1 else row["run"]
    if as_json:
        console.show_json(rows)
        return
    if not rows:
        console.say("There are no runs yet. Start with `tekapctl demo`, `train-teacher` or `distill`.")
        return
    console.show_table(
        "",
        [
            {
                "id=": row["id"],
                "status=": row["status"],
                "dataset": row["dataset"] or "",
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


@app.command("show")
def show(reference: options.RunReference, as_json: options.Json = False) -> None:
    """Show the status, results and spec of a run.

    Example: tekapctl runs show latest
    """
    run = _all().find(reference)
    row, path = _row(run), run.path / "spec.toml"
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
    console.show_fields(
        {name: str(value) for name, value in row.items() if value is not None} | {"path": str(run.path)}
    )
    problem = run.summary_problem()
    why = f"its summary is damaged: {problem}" if problem else (run.summary() or {}).get("error")
    if why:
        console.show_text(f"error: {console.printable(str(why))}")
    console.show_text("\n" + console.printable(spec))


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
        console.show_json([each.to_dict() for each in verified])
    else:
        for each in verified:
            files = f"{each.files} checksum{'' if each.files == 1 else 's'} right"
            console.show_text(console.printable(f"{each.run}: {each.status}, {' '.join(each.problems) or files}"))
    if any(each.problems for each in verified):
        raise typer.Exit(1)


@app.command("remove")
def remove(
    references: Annotated[list[str], argument("RUN...", "Runs to remove.", complete=complete.runs)],
    yes: options.Yes = False,
) -> None:
    """Remove runs with their weights and checkpoints.

    Example: tekapctl runs remove 20260101-120000 --yes
    """
    runs = _all()
    found = [runs.find(reference) for reference in references]
    for run in dict.fromkeys(found):
        if yes or typer.confirm(f"Remove {run.id}?", err=True):
            runs.remove(run)
            console.say(f"removed {run.id}")
