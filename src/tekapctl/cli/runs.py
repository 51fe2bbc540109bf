"""`tekapctl runs`."""

import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tekapctl.cli import complete, console, options
from tekapctl.errors import TekapctlError
from tekapctl.store.metrics import has_top1, top1_of

if TYPE_CHECKING:
    from tekapctl.store.run import Run
    from tekapctl.store.runs import Runs

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, verify and remove runs.\n\nExamples:\ntekapctl runs list\ntekapctl runs show latest",
)
References = typer.Argument(metavar="RUN...", help="Runs to remove.", autocompletion=complete.runs)


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
        **_described(run),
        "epoch": last.get("epoch", 0),
        "last_top1": top1_of(last) if has_top1(last) else None,
        "best_top1": max((top1_of(entry) for entry in metrics if has_top1(entry)), default=None),
        "seconds": seconds if isinstance(seconds, (int, float)) else None,
    }


def _described(run: "Run") -> dict[str, Any]:
    """What a run's spec says, read as plain TOML: checking it would import PyTorch."""
    try:
        spec = tomllib.loads((run.path / "spec.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        spec = {}
    data, method = (_table(spec.get(field)) for field in ("data", "method"))
    dataset = data.get("hub") or data.get("name")
    if "hub" not in data and dataset in ("folder", "imagenet") and data.get("folder"):
        dataset = f"{dataset}:{data['folder']}"
    teaches = spec.get("kind") == "student"
    found = {
        "kind": spec.get("kind"),
        "dataset": dataset,
        "method": method.get("name") if teaches else None,
        "model": spec.get("student") if teaches else spec.get("model"),
        "teacher": spec.get("teacher") if teaches else None,
        "name": spec.get("name"),
    }
    texts = {field: value if isinstance(value, str) else None for field, value in found.items()}
    numbers = {field: value if type(value := spec.get(field)) is int else None for field in ("seed", "epochs")}
    return {**texts, **numbers}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"name": value}


def _short_ids(ids: Sequence[str]) -> list[str]:
    """The ends of the ids that name one run each; a whole id where its end is shared."""
    ends = [each.rpartition("-")[2] for each in ids]
    return [end if ends.count(end) == 1 else whole for end, whole in zip(ends, ids, strict=True)]


@app.command("list")
def list_runs(as_json: options.Json = False) -> None:
    """List all runs, oldest first. Each can be named by the short ID in the first column.

    Example: tekapctl runs list
    """
    rows = [_row(run) for run in _runs().all()]
    for row, short in zip(rows, _short_ids([row["run"] for row in rows]), strict=True):
        row["id"] = short
    if as_json:
        console.show_json(rows)
        return
    if not rows:
        console.say("There are no runs yet. Start with `tekapctl demo`, `train-teacher` or `distill`.")
        return

    def percent(value: float | None) -> str:
        return "" if value is None else console.percent(value)

    console.show_table(
        "",
        [
            *("id=", "status=", "dataset", "model", "method", "seed>", "epochs>", "last %>", "best %>"),
            *("time>", "name", "teacher", "run="),
        ],
        [
            (
                row["id"],
                row["status"],
                row["dataset"] or "",
                row["model"] or "",
                row["method"] or "",
                "" if row["seed"] is None else str(row["seed"]),
                str(row["epoch"]) if row["epochs"] in (None, row["epoch"]) else f"{row['epoch']}/{row['epochs']}",
                percent(row["last_top1"]),
                percent(row["best_top1"]),
                "" if row["seconds"] is None else console.duration(row["seconds"]),
                row["name"] or "",
                row["teacher"] or "",
                row["run"],
            )
            for row in rows
        ],
        optional=("run", "teacher", "name", "time", "best %"),
    )


@app.command("show")
def show(reference: options.RunReference, as_json: options.Json = False) -> None:
    """Show the status, results and spec of a run.

    Example: tekapctl runs show latest
    """
    run = _runs().find(reference)
    row = _row(run)
    spec_path = run.path / "spec.toml"
    try:
        spec = spec_path.read_text(encoding="utf-8", errors="replace") if spec_path.is_file() else ""
    except OSError as error:
        raise TekapctlError(f"The run {run.id} cannot be read: {error}.", "Check the rights of its folder.") from None
    if as_json:
        console.show_json({**row, "path": str(run.path), "spec": _parsed(spec), "summary": run.summary()})
        return
    console.show_fields(
        {name: str(value) for name, value in row.items() if value is not None} | {"path": str(run.path)}
    )
    problem = run.summary_problem()
    why = f"its summary is damaged: {problem}" if problem else (run.summary() or {}).get("error")
    if why:
        console.show_text(f"error: {console.printable(str(why))}")
    console.show_text("\n" + console.printable(spec))


def _parsed(spec: str) -> dict[str, Any] | None:
    """The spec as a table; None if it is damaged or holds what JSON has no word for."""
    import json

    try:
        found: dict[str, Any] = tomllib.loads(spec)
        json.dumps(found, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None
    return found


@app.command("verify")
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]...", help="Runs to check. [default: all]", autocompletion=complete.runs),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check the files of runs against their checksums. Exits with 1 if anything is wrong.

    Example: tekapctl runs verify latest
    """
    from tekapctl.commands.runs import verify as check

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
def remove(references: Annotated[list[str], References], yes: options.Yes = False) -> None:
    """Remove runs with their weights and checkpoints.

    Example: tekapctl runs remove 20260101-120000 --yes
    """
    runs = _runs()
    found = [runs.find(reference) for reference in references]
    for run in dict.fromkeys(found):
        if yes or typer.confirm(f"Remove {run.id}?", err=True):
            runs.remove(run)
            console.say(f"removed {run.id}")
