"""Shared by `sweep` and `study`: execute the runs of a plan, show their progress and estimate their cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tekapctl.cli import console
from tekapctl.cli.spec_options import named_values
from tekapctl.errors import TekapctlError, UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.experiments.sweeps.plan import Plan
    from tekapctl.experiments.sweeps.state import Standing

Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-w",
        metavar="N",
        min=1,
        max=1024,
        help="Runs in parallel. [default: 1]",
        rich_help_panel="Execution",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="LIST",
        help="Devices shared out among the workers, e.g. cuda:0,cuda:1.",
        rich_help_panel="Execution",
    ),
]
Executor = Annotated[
    Literal["slurm", "local-jobs"] | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="Submit the runs as jobs: slurm, or local-jobs to test on this machine.",
        rich_help_panel="Execution",
    ),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm",
        metavar="KEY=VALUE",
        help="Slurm parameter, e.g. partition=gpu or time=240. Repeatable.",
        rich_help_panel="Execution",
    ),
]
Retry = Annotated[bool, typer.Option("--retry", help="Run failed runs again.", rich_help_panel="Execution")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the planned runs and their cost only.", rich_help_panel="Output")
]
Measure = Annotated[
    bool,
    typer.Option(
        "--measure/--no-measure", help="Time a few steps of each kind of run in a dry run.", rich_help_panel="Output"
    ),
]


@dataclass(frozen=True)
class How:
    """How to execute the runs of a plan.

    Attributes:
        workers: Runs at a time.
        devices: Devices shared out among them.
        executor: Submits them as jobs; None runs them here.
        slurm: Parameters of Slurm.
        retry: Try failed runs again.
        again: The command that continues.
        status: The command that shows the progress.
    """

    workers: int | None
    devices: str | None
    executor: Literal["slurm", "local-jobs"] | None
    slurm: list[str] | None
    retry: bool
    again: str
    status: str

    def check(self) -> None:
        """Refuse contradicting options.

        Raises:
            UsageError: Options contradict each other.
        """
        if self.slurm and self.executor is None:
            raise UsageError("--slurm needs a cluster.", "Add --executor slurm.")
        if self.devices and self.executor is not None:
            raise UsageError("A cluster assigns devices itself.", "Leave out --devices.")


def carry_out(plan: "Plan", folder: "SweepFolder", how: How) -> "dict[str, Standing]":
    """Run or submit what is not finished, and return the state of all runs."""
    if how.executor is not None:
        from tekapctl.experiments.sweeps.cluster import submit

        told = named_values(how.slurm, "--slurm")
        handed = submit(plan, folder, look(plan, folder), how.executor, told, retry=how.retry, at_once=how.workers)
        console.say(f"{len(handed)} jobs submitted; `{how.status}` shows their progress")
        if _caches(plan):
            console.say("the teacher cache is not filled beforehand: jobs fill it as they run")
        return look(plan, folder)
    from tekapctl.experiments.sweeps.local import LocalSweep

    with console.SweepDisplay() as display:
        return LocalSweep(
            plan,
            folder,
            workers=how.workers or 1,
            on=[name.strip() for name in how.devices.split(",")] if how.devices else [],
            retry=how.retry,
            again=how.again,
            show=lambda standings: display.show(
                _rows(plan, standings), _lines(plan, standings), _moving(plan, standings)
            ),
        ).run()


def home() -> Any:
    """The home folder."""
    from tekapctl.store.home import Home

    return Home.default()


def look(plan: "Plan", folder: Any) -> "dict[str, Standing]":
    """The current state of a plan's runs."""
    from tekapctl.experiments.sweeps.state import Ledger

    queued: set[str] = set()
    if folder.jobs():
        from tekapctl.experiments.sweeps import cluster

        queued = cluster.queued(folder)
    return Ledger(folder.home).look(plan, queued)


def _rows(plan: "Plan", standings: Any) -> list[tuple[str, ...]]:
    from tekapctl.experiments.sweeps.state import rows

    def number(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.2f}"

    def count(value: int) -> str:
        return str(value) if value else ""

    return [
        (
            row.label,
            f"{row.finished} of {row.trials}",
            *(count(value) for value in (row.running, row.failed, row.waiting)),
            *map(number, row.accuracies),
        )
        for row in rows(plan, standings)
    ]


def _lines(plan: "Plan", standings: Any) -> dict[str, str]:
    """A line for each run."""
    return {digest: _line(plan.trials[digest].label, standing) for digest, standing in standings.items()}


def _moving(plan: "Plan", standings: Any) -> list[str]:
    """A line for each run in progress."""
    under_way = [
        (plan.trials[digest], standing) for digest, standing in standings.items() if standing.state == "running"
    ]
    return [f"{trial.label}: {standing.epoch} of {trial.spec.total_epochs} epochs" for trial, standing in under_way]


def _line(label: str, standing: "Standing") -> str:
    reached = f", top-1 {console.percent(standing.top1)} %" if standing.top1 is not None else ""
    why = f": {standing.error}" if standing.error else ""
    return f"{standing.state}: {label}{reached}{why}"


def show(plan: "Plan", standings: Any, *, as_json: bool) -> None:
    """Show the state of a plan's runs."""
    from tekapctl.experiments.sweeps.state import result

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


def conclude(standings: Any, how: How) -> None:
    """Report the runs that did not finish here.

    Raises:
        TekapctlError: Not all runs are finished.
    """
    if how.executor is not None:
        return
    left = [standing for standing in standings.values() if standing.state != "finished"]
    failed = sum(standing.state == "failed" for standing in left)
    if failed:
        raise TekapctlError(
            f"{failed} of {len(standings)} runs failed, and {len(left) - failed} more are not finished.",
            f"Fix the cause, then continue with `{how.again} --retry`.",
        )
    if left:
        raise TekapctlError(f"{len(left)} of {len(standings)} runs were interrupted.", f"Continue with `{how.again}`.")


def _caches(plan: "Plan") -> bool:
    """Whether any run uses cached teacher outputs."""
    return any(getattr(trial.spec, "cache_teacher", False) for trial in plan.trials.values())


def estimate(plan: "Plan", folder: Any, workers: int, *, measured: bool, as_json: bool) -> None:
    """Show the cost of a plan's runs."""
    from tekapctl.experiments.sweeps.cost import costs, hours

    standings = look(plan, folder)
    with console.CountProgress("kinds of runs", "measuring" if measured else "estimating") as progress:
        found = costs(plan, standings, folder, measured=measured, report=progress)
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
                "groups": [{**each.to_dict(), "published_top1": published[each.label]} for each in found],
            }
        )
        return
    columns = ["", "runs>", "done>", "MACs/run>", "memory>", "time/run>", "paper %>"]
    console.show_table(
        plan.name,
        columns,
        [
            (
                each.label,
                str(each.trials),
                str(each.trials - each.left),
                f"{each.macs:.3g}",
                console.format_bytes(each.memory_bytes),
                "" if each.seconds is None else console.duration(each.seconds),
                "" if (number := published[each.label]) is None else f"{100 * number:.2f}",
            )
            for each in found
        ],
    )
    if measured and _caches(plan):
        console.say("times assume a full teacher cache; filling it takes extra time once")
    took = (
        "" if total is None else f", about {console.duration(3600 * total)} with {workers} worker{'s' * (workers > 1)}"
    )
    console.show_text(f"{left} of {trials} runs to do: {macs:.3g} MACs{took}")
