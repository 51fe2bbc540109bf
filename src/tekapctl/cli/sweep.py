"""`tekapctl sweep`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tekapctl.cli import compare, console, options, progress, report, sweeping
from tekapctl.cli.help import Group
from tekapctl.cli.options import argument
from tekapctl.store.home import Home, output_file

_HELP = ("-h", "--help")


class RunsByDefault(Group):
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
    help="Run all experiments in a sweep file, skipping finished ones. `sweep FILE` is short for `sweep run FILE`.\n\n"
    "Examples:\n"
    "tekapctl sweep sweeps/digits.toml --workers 2\n"
    "tekapctl sweep status sweeps/digits.toml",
)


def _open(file: Path) -> tuple[Any, Any]:
    """The plan in a sweep file, and the folder that keeps its state."""
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.experiments.sweeps.plan import read

    plan = read(file, Home.default().datasets)
    return plan, SweepFolder(Home.default(), plan.name)


File = Annotated[Path, argument("FILE", "TOML file that describes the sweep.")]
TrialFile = Annotated[Path, typer.Argument(metavar="FILE")]
Tied = Annotated[bool, typer.Option("--tied")]


@app.command("run")
def run(
    file: File,
    workers: sweeping.Workers = None,
    devices: sweeping.Devices = None,
    executor: sweeping.Executor = None,
    slurm: sweeping.Slurm = None,
    retry: sweeping.Retry = False,
    dry_run: sweeping.DryRun = False,
    measured: sweeping.Measure = True,
    as_json: options.Json = False,
) -> None:
    """Run all experiments in a sweep file, skipping finished ones.

    You can interrupt a sweep and start it again at any time: finished runs are kept, and interrupted runs resume.

    Examples:
    tekapctl sweep FILE.toml --dry-run
    tekapctl sweep FILE.toml --workers 4 --devices cuda:0,cuda:1
    """
    plan, folder = _open(file)
    how = sweeping.How(
        workers, devices, executor, slurm, retry, f"tekapctl sweep {file}", f"tekapctl sweep status {file}"
    )
    if dry_run:
        sweeping.estimate(plan, folder, workers or 1, measured=measured, as_json=as_json)
        return
    standings = sweeping.carry_out(plan, folder, how)
    sweeping.show(plan, standings, as_json=as_json)
    sweeping.conclude(standings, how)


@app.command("status")
def status(file: File, as_json: options.Json = False) -> None:
    """Show the progress of a sweep.

    Example: tekapctl sweep status FILE.toml
    """
    plan, folder = _open(file)
    sweeping.show(plan, sweeping.look(plan, folder), as_json=as_json)


@app.command("cancel")
def cancel(file: File, as_json: options.Json = False) -> None:
    """Stop a sweep's local processes and cluster jobs. Runs are kept.

    Example: tekapctl sweep cancel FILE.toml
    """
    from tekapctl.experiments.sweeps import cluster, local

    _, folder = _open(file)
    processes = local.stop_all(folder)
    jobs = cluster.cancel(folder) if folder.jobs() else 0
    if as_json:
        console.show_json({"processes": processes, "jobs": jobs})
    else:
        console.show_text(f"stopping {processes} processes and {jobs} jobs")


@app.command("report")
def report_sweep(
    file: File,
    output: options.Output = None,
    baseline: options.Baseline = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Compare the finished runs of a sweep, or write an HTML report with --output.

    Examples:
    tekapctl sweep report FILE.toml
    tekapctl sweep report FILE.toml --output sweep.html
    """
    from tekapctl.experiments.sweeps.state import finished_groups

    plan, folder = _open(file)
    if output is not None:
        output = output_file(output, Home.default(), force=force)
    found = finished_groups(plan, sweeping.look(plan, folder), folder.home)
    if as_json or output is None:
        compare.show(compare.compared(found, baseline), "json" if as_json else None)
    if output is not None:
        report.write(found, baseline, output, quiet=as_json)


@app.command("trial", hidden=True)
def trial(file: TrialFile, retry: Annotated[bool, typer.Option("--retry")] = False, tied: Tied = False) -> None:
    """Execute one run of a sweep, as its workers do."""
    from tekapctl.experiments.sweeps.folder import read_trial
    from tekapctl.experiments.sweeps.trial import run_trial

    _tie(tied)
    one = read_trial(file)
    with progress.Training(one.label) as shown:
        run_trial(one, _folder_of(file), shown, retry=retry)


@app.command("fill-cache", hidden=True)
def fill_cache(
    file: TrialFile,
    epochs: Annotated[int, typer.Option("--epochs")],
    always: Annotated[bool, typer.Option("--always")] = False,
    tied: Tied = False,
) -> None:
    """Fill a sweep's teacher cache."""
    from tekapctl.experiments.sweeps import trial as trials
    from tekapctl.experiments.sweeps.folder import read_trial

    _tie(tied)
    with progress.counting("views", "caching teacher outputs") as shown:
        trials.fill_cache(read_trial(file), _folder_of(file), epochs, always=always, report=shown)


def _folder_of(file: Path) -> Any:
    """The folder of the sweep that a trial's file is in."""
    from tekapctl.experiments.sweeps.folder import SweepFolder

    return SweepFolder(Home.default(), file.parent.parent.name)


def _tie(tied: bool) -> None:
    if tied:
        from tekapctl.distributed.communicator import end_with_parent

        end_with_parent()
