"""`tekapctl study`."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tekapctl.cli import complete, console, listings, options, report, sweeping
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.cli.compare import Csv, Latex, Markdown, chosen_format, text_of
from tekapctl.cli.options import argument, option
from tekapctl.cli.progress import counting
from tekapctl.cli.spec_options import named_values
from tekapctl.errors import UsageError
from tekapctl.store.home import Home, output_file

if TYPE_CHECKING:
    from tekapctl.experiments.studies.planning import Planned
    from tekapctl.experiments.studies.result import Result


@with_spec_options("student", section="study")
def study(
    make_spec: Callable[[], Any],
    settings: dict[str, Any],
    study_name: Annotated[
        str | None,
        argument("[STUDY]", "Name of the study. Without it, all studies are listed.", complete=complete.studies),
    ] = None,
    seeds: Annotated[int, option("--seeds N", "Seeds per arm, starting with --seed.", "Run", min=1, max=1000)] = 5,
    teacher_epochs: Annotated[
        int | None, option("--teacher-epochs N", "First train the teacher for N epochs.", "Optimization", min=1)
    ] = None,
    vary: Annotated[
        list[str] | None,
        option("--vary KEY=[A, B]", "Repeat the study for each value of a spec field. Repeatable.", "Configuration"),
    ] = None,
    workers: sweeping.Workers = None,
    devices: sweeping.Devices = None,
    executor: sweeping.Executor = None,
    slurm: sweeping.Slurm = None,
    retry: sweeping.Retry = False,
    dry_run: sweeping.DryRun = False,
    measured: sweeping.Measure = True,
    report_only: Annotated[
        bool, option("--report-only", "Report on the finished runs without starting any.", "Output")
    ] = False,
    output: options.Output = None,
    force: options.Force = False,
    markdown: Markdown = False,
    latex: Latex = False,
    csv: Csv = False,
    as_json: options.Json = False,
) -> None:
    """Run an ablation study of a method over several seeds.

    Takes the options of `distill` that describe a run, and settings of the study itself as `--set study.KEY=VALUE`.
    You can interrupt a study and start it again at any time. Studies share the runs that they have in common.

    Examples:
    tekapctl study                                  # list the studies
    tekapctl study controls --seeds 5 --dry-run     # plan and cost
    tekapctl study noise --dataset digits --student resnet8 --teacher resnet20
    tekapctl study few-shot --set "study.fractions=[0.1, 0.5]" --method crd
    """
    if study_name is None:
        _list(as_json=as_json)
        return
    from tekapctl.experiments.studies import planning
    from tekapctl.experiments.sweeps.folder import SweepFolder

    form = chosen_format(markdown=markdown, latex=latex, csv=csv, json=as_json)
    command = shlex.join(["tekapctl", *sys.argv[1:]])
    how = sweeping.How(workers, devices, executor, slurm, retry, command, f"{command} --report-only")
    if output is not None:
        output = output_file(output, Home.default(), force=force)
    home = Home.default()
    planned = planning.plan(
        study_name,
        make_spec(),
        home,
        settings=settings,
        seeds=seeds,
        teacher_epochs=teacher_epochs,
        over=_over(vary),
        is_dry=dry_run,
    )
    plan, folder = planned.plan, SweepFolder(home, planned.plan.name)
    if dry_run:
        sweeping.estimate(plan, folder, workers or 1, measured=measured, as_json=as_json)
        return
    standings = sweeping.look(plan, folder) if report_only else sweeping.carry_out(plan, folder, how)
    found = _result(planned, standings, home, output)
    if form == "json":
        console.show_json(found.to_dict() | {"units": {each.name: each.unit for each in found.outcomes}})
    else:
        _show(found, form)
    if not report_only:
        sweeping.conclude(standings, how)


def _list(*, as_json: bool) -> None:
    rows = listings.studies()
    if as_json:
        console.show_json(rows)
        return
    settings = [", ".join(f"{key} {_plain(value)}" for key, value in row["settings"].items()) for row in rows]
    console.show_table(
        "",
        [
            {"study=": row["study"], "question": row["question"], "settings (study.KEY)": text}
            for row, text in zip(rows, settings, strict=True)
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
    for field, values in named_values(texts, "--vary").items():
        if not isinstance(values, list) or not values:
            raise UsageError(f"--vary {field} needs a list of values.", f"Write it as --vary '{field}=[1, 2]'.")
        found[field] = values
    return found


def _result(planned: "Planned", standings: Any, home: "Home", output: Path | None) -> "Result":
    from tekapctl.experiments.comparison.groups import Group
    from tekapctl.experiments.studies.result import measured_runs, result
    from tekapctl.report.page import opening

    with counting("runs", "measuring") as progress:
        measured = measured_runs(planned, standings, home, progress)
    finished = sum(standing.state == "finished" for standing in standings.values())
    found = result(planned, measured, finished)
    if output is not None:
        groups = [
            Group(label, {seed: one.finished for seed, one in runs.items()}) for label, runs in measured.items() if runs
        ]
        if not groups:
            raise UsageError("No run of the study is finished.", "Start it without --report-only.")
        report.write(groups, groups[0].label, output, quiet=True, opening=opening(found))
    return found


def _show(found: "Result", form: str | None) -> None:
    from tekapctl.experiments.studies.result import arm_cells, contrast_cells

    tables = [(outcome.name, arm_cells(found, number)) for number, outcome in enumerate(found.outcomes)]
    tables.append(("Conclusions", contrast_cells(found)))
    if form is not None:
        console.show_text(text_of([cells for _, cells in tables], form))
        return
    console.show_text(found.question)
    for title, cells in tables:
        columns = [
            name if name in ("arm", "block", "contrast", "outcome", "verdict") else f"{name}>" for name in cells[0]
        ]
        rows = [dict(zip(columns, row, strict=True)) for row in cells[1:]]
        console.show_table(title, rows, optional=("std>",))
    console.show_text(found.conclusions[-1])
    if found.finished < found.runs:
        console.say(f"{found.finished} of {found.runs} runs are finished")
