"""`tekapctl study`."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tekapctl.cli import console, options, report, sweeping
from tekapctl.cli.student import with_student_options
from tekapctl.errors import UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.studies.planning import Planned
    from tekapctl.experiments.studies.result import Result
    from tekapctl.store.home import Home

Format = Literal["terminal", "markdown", "latex", "csv"]


@with_student_options
def study(
    spec: Any,
    study_name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The study; without it all are listed.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KEY=VALUE", help="Set one of the study's own settings; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=1000, help="Seeds of each way, from --seed on.")] = 5,
    teacher_epochs: Annotated[
        int | None,
        typer.Option(
            "--teacher-epochs", min=1, help="Train the teacher, named by its network, for so many epochs first."
        ),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="A.B=[C, D]",
            help="Carry it out for each value of a field of the spec, and judge all together; may be repeated.",
        ),
    ] = None,
    workers: sweeping.Workers = None,
    devices: sweeping.Devices = None,
    on: sweeping.On = None,
    slurm: sweeping.Slurm = None,
    retry: sweeping.Retry = False,
    dry_run: sweeping.DryRun = False,
    measured: sweeping.Measure = True,
    so_far: Annotated[bool, typer.Option("--so-far", help="Run nothing: say what the finished runs say.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a page about it to this file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to write the tables.")] = "terminal",
    as_json: options.Json = False,
) -> None:
    """Carry out a study: what a way of distilling is worth, and what of it that is due to.

    All its runs are a sweep: it may be broken off and repeated at any time. Studies share their common runs.

    Examples:
    tekapctl study                                             list the studies

    tekapctl study controls --seeds 5 --dry-run                CIFAR-100, as published: what it would cost

    tekapctl study controls --dataset digits --teacher resnet20 --teacher-epochs 30 --student resnet8 --epochs 20

    tekapctl study few-shot --with "fractions=[0.1, 0.5]" --method crd
    """
    if study_name is None:
        _list(as_json=as_json)
        return
    from tekapctl.experiments.studies import planning
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.store.home import Home

    command = shlex.join(["tekapctl", *sys.argv[1:]])
    how = sweeping.How(workers, devices, on, slurm, retry, command, f"{command} --so-far")
    how.check()
    if output is not None:
        output = report.writable(output, force=force)
    home = Home.default()
    planned = planning.plan(
        study_name,
        spec,
        home,
        settings=options.named_values(settings, "--with"),
        seeds=seeds,
        teacher_epochs=teacher_epochs,
        over=_over(over),
        is_dry=dry_run,
    )
    plan, folder = planned.plan, SweepFolder(home, planned.plan.name)
    if dry_run:
        sweeping.estimate(plan, folder, workers or 1, measured=measured, as_json=as_json)
        return
    standings = sweeping.look(plan, folder) if so_far else sweeping.carry_out(plan, folder, how)
    found = _result(planned, standings, home, output)
    if as_json:
        console.show_json(found.to_dict())
    else:
        _show(found, form)
    if not so_far:
        sweeping.conclude(standings, how)


def _list(*, as_json: bool) -> None:
    from tekapctl.experiments.studies import STUDIES

    rows: list[dict[str, Any]] = [
        {"study": name, "question": STUDIES[name].question, "settings": STUDIES[name].defaults()} for name in STUDIES
    ]
    if as_json:
        console.show_json(rows)
        return
    console.show_table(
        "",
        ["study", "question", "settings"],
        [
            (
                row["study"],
                row["question"],
                ", ".join(f"{key} {_plain(value)}" for key, value in row["settings"].items()),
            )
            for row in rows
        ],
    )


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else "unset" if value is None else str(value)


def _over(texts: list[str] | None) -> dict[str, list[Any]]:
    """Fields with the values that each takes.

    Raises:
        UsageError: Not a list of values.
    """
    found = {}
    for field, values in options.named_values(texts, "--over").items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"--over {field} has no list of values.", f"Write it as --over '{field}=[1, 2]'.")
        found[field] = values
    return found


def _result(planned: "Planned", standings: Any, home: "Home", output: Path | None) -> "Result":
    from tekapctl.commands.report.study import opening
    from tekapctl.experiments.comparison.groups import Group
    from tekapctl.experiments.studies.measuring import measured_runs
    from tekapctl.experiments.studies.result import result

    with console.CountProgress("runs", "measuring") as progress:
        measured = measured_runs(planned, standings, home, progress)
    finished = sum(standing.state == "finished" for standing in standings.values())
    found = result(planned, measured, finished)
    if output is not None:
        groups = [
            Group(label, {seed: one.finished for seed, one in runs.items()}) for label, runs in measured.items() if runs
        ]
        if not groups:
            raise UsageError("No run of the study is finished.", "Start it without --so-far.")
        report.write(groups, groups[0].label, output, quiet=True, opening=opening(found))
    return found


def _show(found: "Result", form: Format) -> None:
    from tekapctl.experiments.comparison import table
    from tekapctl.experiments.studies.result import arm_cells, contrast_cells

    tables = [(outcome.name, arm_cells(found, number)) for number, outcome in enumerate(found.outcomes)]
    tables.append(("Conclusions", contrast_cells(found)))
    if form != "terminal":
        write = {"markdown": table.markdown, "latex": table.latex, "csv": table.comma_separated}[form]
        console.show_text("\n".join(write(cells) for _, cells in tables).rstrip("\n"))
        return
    console.show_text(found.question)
    for title, cells in tables:
        columns = [
            column if column in ("arm", "block", "contrast", "outcome", "verdict") else f"{column}>"
            for column in cells[0]
        ]
        console.show_table(title, columns, cells[1:])
    console.show_text(found.conclusions[-1])
    if found.finished < found.runs:
        console.say(f"{found.finished} of {found.runs} runs are finished")
