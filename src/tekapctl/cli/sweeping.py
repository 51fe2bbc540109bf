"""What `sweep` and `study` share: carry out the runs of a plan, and show how they stand and what they cost."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tekapctl.cli import console, options
from tekapctl.errors import TekapctlError, UsageError

if TYPE_CHECKING:
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.experiments.sweeps.plan import Plan
    from tekapctl.experiments.sweeps.state import Standing

Workers = Annotated[int | None, typer.Option("--workers", "-w", min=1, max=1024, help="Runs at a time. (default: 1)")]
Devices = Annotated[
    str | None, typer.Option("--devices", help="Devices that are dealt out to the workers, as cuda:0,cuda:1.")
]
On = Annotated[
    Literal["slurm", "local-jobs"] | None,
    typer.Option("--on", help="Hand the runs to a Slurm cluster; local-jobs tries that out on this machine."),
]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm", metavar="KEY=VALUE", help="Tell the cluster this, as partition=gpu, time=240; may be repeated."
    ),
]
Retry = Annotated[bool, typer.Option("--retry", help="Try runs that failed again.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the plan and its cost.")]
Measure = Annotated[
    bool, typer.Option("--measure/--no-measure", help="Measure some steps of each kind of run in a dry run.")
]


@dataclass(frozen=True)
class How:
    """How the runs of a plan are carried out.

    Attributes:
        workers: Runs at a time.
        devices: Devices that are dealt out to them.
        on: The cluster that has them.
        slurm: What it is told.
        retry: Try failed runs again.
        again: The command that goes on with them.
        status: The command that says how they stand.
    """

    workers: int | None
    devices: str | None
    on: Literal["slurm", "local-jobs"] | None
    slurm: list[str] | None
    retry: bool
    again: str
    status: str

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: Options contradict each other.
        """
        if self.slurm and self.on is None:
            raise UsageError("--slurm is told to a cluster.", "Give --on slurm too.")
        if self.devices and self.on is not None:
            raise UsageError("A cluster deals out its devices itself.", "Leave out --devices.")


def carry_out(plan: "Plan", folder: "SweepFolder", how: How) -> "dict[str, Standing]":
    """Carry out, or hand over, what is not done yet; returns how all runs stand then."""
    if how.on is not None:
        from tekapctl.experiments.sweeps.cluster import submit

        told = options.named_values(how.slurm, "--slurm")
        handed = submit(plan, folder, look(plan, folder), how.on, told, retry=how.retry, at_once=how.workers)
        console.say(f"{len(handed)} jobs were handed over; `{how.status}` shows how they stand")
        if _caches(plan):
            console.say("teachers are not asked beforehand: jobs fill the cache as they go")
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
    """How the runs of a plan stand now."""
    from tekapctl.experiments.sweeps.state import Ledger

    queued: set[str] = set()
    if folder.jobs():
        from tekapctl.experiments.sweeps import cluster

        queued = cluster.queued(folder)
    return Ledger(folder.home).look(plan, queued)


def _rows(plan: "Plan", standings: Any) -> list[tuple[str, ...]]:
    from tekapctl.experiments.sweeps.table import rows

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


def show(plan: "Plan", standings: Any, *, as_json: bool) -> None:
    """How the runs of a plan stand."""
    from tekapctl.experiments.sweeps.table import result

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
    """Say what is left of runs that were carried out here.

    Raises:
        TekapctlError: Not all runs are finished.
    """
    if how.on is not None:
        return
    left = [standing for standing in standings.values() if standing.state != "finished"]
    failed = sum(standing.state == "failed" for standing in left)
    if failed:
        raise TekapctlError(
            f"{failed} of {len(standings)} runs failed, and {len(left) - failed} others are left.",
            f"When that is mended, go on with `{how.again} --retry`.",
        )
    if left:
        raise TekapctlError(f"{len(left)} of {len(standings)} runs were broken off.", f"Go on with `{how.again}`.")


def _caches(plan: "Plan") -> bool:
    """Whether runs of a sweep share what their teachers say."""
    return any(getattr(trial.spec, "cache_teacher", False) for trial in plan.trials.values())


def estimate(plan: "Plan", folder: Any, workers: int, *, measured: bool, as_json: bool) -> None:
    """What the runs of a plan cost."""
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
                console.format_bytes(each.memory_bytes),
                "" if each.seconds is None else console.duration(each.seconds),
                "" if (number := published[each.label]) is None else f"{100 * number:.2f}",
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
