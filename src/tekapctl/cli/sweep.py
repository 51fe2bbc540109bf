"""`tekapctl sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from tekapctl.cli import console, options, report
from tekapctl.errors import TekapctlError, UsageError

if TYPE_CHECKING:
    from tekapctl.sweep.plan import Plan
    from tekapctl.sweep.state import Standing

_HELP = ("-h", "--help")


class RunsByDefault(TyperGroup):
    """A group of commands, of which `run` is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` before options and files."""
        return super().parse_args(ctx, self._named(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command, and what is left for it."""
        return super().resolve_command(ctx, self._named(args))

    def _named(self, args: list[str]) -> list[str]:
        return ["run", *args] if args and args[0] not in (*self.commands, *_HELP) else args


app = typer.Typer(
    cls=RunsByDefault,
    no_args_is_help=True,
    help="Carry out all runs of a file, each once.\n\nExample: tekapctl sweep sweeps/digits.toml --workers 2",
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The sweep's TOML file.")]
TrialFile = Annotated[Path, typer.Argument(metavar="FILE")]
Tied = Annotated[bool, typer.Option("--tied")]


@app.command("run")
def run(
    file: File,
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", min=1, max=1024, help="Runs at a time. (default: 1)")
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", help="Devices that are dealt out to the workers, as cuda:0,cuda:1.")
    ] = None,
    on: Annotated[
        Literal["slurm", "local-jobs"] | None,
        typer.Option("--on", help="Hand the runs to a Slurm cluster; local-jobs tries that out on this machine."),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm", metavar="KEY=VALUE", help="Tell the cluster this, as partition=gpu, time=240; may be repeated."
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try runs that failed again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan and its cost.")] = False,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure some steps of each kind of run in a dry run.")
    ] = True,
    as_json: options.Json = False,
) -> None:
    """Carry out all runs of a file that are not done yet; `sweep FILE` is `sweep run FILE`.

    May be broken off and repeated at any time: what is finished stays, what was interrupted goes on.

    Examples: tekapctl sweep FILE.toml --dry-run; tekapctl sweep FILE.toml --workers 4 --devices cuda:0,cuda:1
    """
    from tekapctl.sweep.folder import SweepFolder
    from tekapctl.sweep.plan import read

    plan = read(file)
    folder = SweepFolder(_home(), plan.name)
    if slurm and on is None:
        raise UsageError("--slurm is told to a cluster.", "Give --on slurm too.")
    if devices and on is not None:
        raise UsageError("A cluster deals out its devices itself.", "Leave out --devices.")
    if dry_run:
        _estimate(plan, folder, workers or 1, measured=measured, as_json=as_json)
        return
    if on is not None:
        from tekapctl.sweep.cluster import submit

        told = options.named_values(slurm, "--slurm")
        standings = _look(plan, folder)
        handed = submit(plan, folder, standings, on, told, retry=retry, at_once=workers)
        console.say(f"{len(handed)} jobs were handed over; `tekapctl sweep status {file}` shows how they stand")
        if _caches(plan):
            console.say("teachers are not asked beforehand: jobs fill the cache as they go")
        _show(plan, _look(plan, folder), as_json=as_json)
        return
    from tekapctl.sweep.local import LocalSweep

    with console.SweepDisplay() as display:
        standings = LocalSweep(
            plan,
            folder,
            workers=workers or 1,
            on=[name.strip() for name in devices.split(",")] if devices else [],
            retry=retry,
            file=str(file),
            show=lambda standings: display.show(
                _rows(plan, standings), _lines(plan, standings), _moving(plan, standings)
            ),
            say=display.say,
        ).run()
    _show(plan, standings, as_json=as_json)
    _conclude(standings, file)


@app.command("status")
def status(file: File, as_json: options.Json = False) -> None:
    """Show how the runs of a sweep stand.

    Example: tekapctl sweep status FILE.toml
    """
    from tekapctl.sweep.folder import SweepFolder
    from tekapctl.sweep.plan import read

    plan = read(file)
    _show(plan, _look(plan, SweepFolder(_home(), plan.name)), as_json=as_json)


@app.command("cancel")
def cancel(file: File, as_json: options.Json = False) -> None:
    """Stop a sweep: its processes on this machine, and its jobs on a cluster; all runs are kept.

    Example: tekapctl sweep cancel FILE.toml
    """
    from tekapctl.sweep import cluster, presence
    from tekapctl.sweep.folder import SweepFolder
    from tekapctl.sweep.plan import read

    folder = SweepFolder(_home(), read(file).name)
    processes = presence.stop_all(folder, console.say)
    jobs = cluster.cancel(folder) if folder.jobs() else 0
    if as_json:
        console.show_json({"processes": processes, "jobs": jobs})
    else:
        console.show_text(f"told to stop: {processes} processes, {jobs} jobs")


@app.command("report")
def report_sweep(
    file: File,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a page about them to this file.")] = None,
    baseline: options.Baseline = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compare the finished runs of a sweep, in its groups; with --output as one HTML page.

    Examples: tekapctl sweep report FILE.toml; tekapctl sweep report FILE.toml --output sweep.html
    """
    from tekapctl.cli import compare
    from tekapctl.sweep.folder import SweepFolder
    from tekapctl.sweep.plan import read
    from tekapctl.sweep.table import finished_groups

    plan = read(file)
    if output is not None:
        output = report.writable(output, force=force)
    home = _home()
    found = finished_groups(plan, _look(plan, SweepFolder(home, plan.name)), home)
    if as_json or output is None:
        compare.show(found, baseline, "json" if as_json else "terminal")
    if output is not None:
        report.write(found, baseline, output, quiet=as_json)


@app.command("trial", hidden=True)
def trial(
    file: TrialFile,
    retry: Annotated[bool, typer.Option("--retry")] = False,
    tied: Tied = False,
) -> None:
    """Carry out one run of a sweep: what its workers do."""
    from tekapctl.sweep.folder import read_trial
    from tekapctl.sweep.trial import carry_out

    _tie(tied)
    one = read_trial(file)
    with console.TrainingProgress(one.label) as progress:
        carry_out(one, _folder_of(file), progress, console.say, retry=retry)


@app.command("warm", hidden=True)
def warm(
    file: TrialFile,
    epochs: Annotated[int, typer.Option("--epochs")],
    always: Annotated[bool, typer.Option("--always")] = False,
    tied: Tied = False,
) -> None:
    """Ask a sweep's teacher for all it will be asked."""
    from tekapctl.sweep.folder import read_trial
    from tekapctl.sweep.warming import warm_up

    _tie(tied)
    with console.CountProgress("views", "asking the teacher") as progress:
        warm_up(read_trial(file), _folder_of(file), epochs, always=always, say=console.say, report=progress)


def _home() -> Any:
    from tekapctl.store.home import Home

    return Home.default()


def _folder_of(file: Path) -> Any:
    """The folder of the sweep that a trial's file is in."""
    from tekapctl.sweep.folder import SweepFolder

    return SweepFolder(_home(), file.parent.parent.name)


def _tie(tied: bool) -> None:
    if tied:
        from tekapctl.sweep.tether import end_with_parent

        end_with_parent()


def _look(plan: "Plan", folder: Any) -> "dict[str, Standing]":
    from tekapctl.sweep.state import Ledger

    queued: set[str] = set()
    if folder.jobs():
        from tekapctl.sweep import cluster

        queued = cluster.queued(folder)
    return Ledger(folder.home).look(plan, queued)


def _rows(plan: "Plan", standings: Any) -> list[tuple[str, ...]]:
    from tekapctl.sweep.table import rows

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    def count(value: int) -> str:
        return str(value) if value else ""

    return [
        (
            row.label,
            f"{row.finished} of {row.trials}",
            *(count(value) for value in (row.running, row.failed, row.waiting)),
            *(number(value) for value in (row.mean, row.deviation, row.published)),
        )
        for row in rows(plan, standings)
    ]


def _lines(plan: "Plan", standings: Any) -> dict[str, str]:
    """How each run stands, in words."""
    return {digest: _line(plan.trials[digest].label, standing) for digest, standing in standings.items()}


def _moving(plan: "Plan", standings: Any) -> list[str]:
    """How far the runs are that are under way."""
    under_way = [
        (plan.trials[digest], standing) for digest, standing in standings.items() if standing.state == "running"
    ]
    return [f"{trial.label}: {standing.epoch} of {trial.spec.total_epochs} epochs" for trial, standing in under_way]


def _line(label: str, standing: "Standing") -> str:
    reached = f", top-1 {console.percent(standing.top1)} %" if standing.top1 is not None else ""
    why = f": {standing.error}" if standing.error else ""
    return f"{standing.state}: {label}{reached}{why}"


def _show(plan: "Plan", standings: Any, *, as_json: bool) -> None:
    from tekapctl.sweep.table import result

    if as_json:
        console.show_json(result(plan, standings))
        return
    console.show_table(plan.name, console.SWEEP_COLUMNS, _rows(plan, standings))
    for digest, standing in standings.items():
        label = plan.trials[digest].label
        if standing.error:
            console.say(_line(label, standing))
        if standing.note:
            console.say(f"{label}: {standing.note}")


def _conclude(standings: Any, file: Path) -> None:
    """Say what is left.

    Raises:
        TekapctlError: Not all runs are finished.
    """
    left = [standing for standing in standings.values() if standing.state != "finished"]
    failed = sum(standing.state == "failed" for standing in left)
    if failed:
        raise TekapctlError(
            f"{failed} of {len(standings)} runs failed, and {len(left) - failed} others are left.",
            f"When that is mended, go on with `tekapctl sweep {file} --retry`.",
        )
    if left:
        raise TekapctlError(
            f"{len(left)} of {len(standings)} runs were broken off.", f"Go on with `tekapctl sweep {file}`."
        )


def _caches(plan: "Plan") -> bool:
    """Whether runs of a sweep share what their teachers say."""
    return any(getattr(trial.spec, "cache_teacher", False) for trial in plan.trials.values())


def _estimate(plan: "Plan", folder: Any, workers: int, *, measured: bool, as_json: bool) -> None:
    from tekapctl.sweep.cost import costs, hours

    standings = _look(plan, folder)
    with console.CountProgress("kinds of runs", "measuring") as progress:
        found = costs(plan, standings, folder, measured=measured, say=console.say, report=progress)
    total = hours(found, workers) if measured else None
    macs = sum(each.left * each.macs for each in found)
    left, trials = sum(each.left for each in found), len(plan.trials)
    published = {label: plan.trials[digests[0]].published for label, digests in plan.groups.items()}
    if as_json:
        console.show_json(
            {
                "sweep": plan.name,
                "trials": trials,
                "left": left,
                "macs": macs,
                "hours": total,
                "workers": workers,
                "groups": [{**each.to_dict(), "published": published[each.label]} for each in found],
            }
        )
        return
    columns = ["", "runs>", "done>", "MACs a run>", "memory>", "time a run>", "published %>"]
    console.show_table(
        plan.name,
        columns,
        [
            (
                each.label,
                str(each.trials),
                str(each.trials - each.left),
                f"{each.macs:.3g}",
                console.size(each.memory_bytes),
                "" if each.seconds is None else console.duration(each.seconds),
                "" if (number := published[each.label]) is None else f"{number:.2f}",
            )
            for each in found
        ],
    )
    if measured and _caches(plan):
        console.say("times are those with all that teachers say in the cache; filling it comes before them, once")
    took = (
        "" if total is None else f", about {console.duration(3600 * total)} with {workers} worker{'s' * (workers > 1)}"
    )
    console.show_text(f"{left} of {trials} runs are left: {macs:.3g} MACs{took}")
