"""Shared by `sweep`, `study` and `tune`: execute the runs of a plan, show their progress and estimate their cost."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Group
from rich.live import Live
from rich.text import Text

from tekapctl.cli import console
from tekapctl.cli.options import option
from tekapctl.cli.progress import counting
from tekapctl.cli.spec_options import named_values
from tekapctl.errors import TekapctlError, UsageError, counted

if TYPE_CHECKING:
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.experiments.sweeps.plan import Plan
    from tekapctl.experiments.sweeps.state import Standing

    Standings = Mapping[str, Standing]

Split = Literal["val", "test"]

Workers = Annotated[
    int | None, option("-w --workers N", "Runs in parallel. [default: 1]", "Execution", min=1, max=1024)
]
Devices = Annotated[
    str | None, option("--devices LIST", "Devices to spread the workers over, e.g. cuda:0,cuda:1.", "Execution")
]
Executor = Annotated[
    Literal["slurm", "local-jobs"] | None,
    option("--executor NAME", "Submit the runs as jobs: slurm, or local-jobs for a test on this machine.", "Execution"),
]
Slurm = Annotated[
    list[str] | None,
    option("--slurm KEY=VALUE", "Slurm parameter, e.g. partition=gpu or time=240. Repeatable.", "Execution"),
]
Retry = Annotated[bool, option("--retry", "Retry failed runs.", "Execution")]
DryRun = Annotated[bool, option("--dry-run", "Show the planned runs and their cost, and exit.", "Output")]
Measure = Annotated[
    bool, option("--measure/--no-measure", "In a dry run, time a few steps of each kind of run.", "Output")
]


@dataclass(frozen=True)
class How:
    """How to execute the runs of a plan; without an executor they run here.

    The user is told that the command `again` continues them, and that `status` shows their progress.

    Raises:
        UsageError: Options contradict each other.
    """

    workers: int | None
    devices: str | None
    executor: Literal["slurm", "local-jobs"] | None
    slurm: list[str] | None
    retry: bool
    again: str
    status: str

    def __post_init__(self) -> None:
        if self.slurm and self.executor is None:
            raise UsageError("--slurm needs a cluster.", "Add --executor slurm.")
        if self.devices and self.executor is not None:
            raise UsageError("A cluster assigns devices itself.", "Leave out --devices.")


def carry_out(plan: "Plan", folder: "SweepFolder", how: How, *, split: Split = "test") -> "Standings":
    """Run or submit what is not finished, and return the state of all runs.

    Accuracies that are shown meanwhile are those on the images of `split`.
    """
    if how.executor is not None:
        from tekapctl.experiments.sweeps.cluster import submit

        slurm = named_values(how.slurm, "--slurm")
        jobs = submit(plan, folder, look(plan, folder), how.executor, slurm, retry=how.retry, at_once=how.workers)
        console.say(f"{len(jobs)} jobs submitted; `{how.status}` shows their progress")
        if _caches(plan):
            console.say("the teacher cache is not filled beforehand: jobs fill it as they run")
        return look(plan, folder)
    from tekapctl.experiments.sweeps.local import LocalSweep

    with _display(plan, split) as show_now:
        return LocalSweep(
            plan,
            folder,
            workers=how.workers or 1,
            on=[name.strip() for name in how.devices.split(",")] if how.devices else [],
            retry=how.retry,
            again=how.again,
            show=show_now,
        ).run()


def look(plan: "Plan", folder: "SweepFolder") -> "Standings":
    """The current state of a plan's runs."""
    from tekapctl.experiments.sweeps.state import Ledger

    queued: set[str] = set()
    if folder.jobs():
        from tekapctl.experiments.sweeps import cluster

        queued = cluster.queued(folder)
    return Ledger(folder.home).look(plan, queued)


def _rows(plan: "Plan", standings: "Standings", split: Split = "test") -> list[console.Row]:
    from tekapctl.experiments.sweeps.state import rows

    columns = ("top-1 %>", "std>", "paper %>") if split == "test" else ("val top-1 %>", "std>")
    return [
        {
            "": row.label,
            "done>": f"{row.finished} of {row.trials}",
            "running>": str(row.running or ""),
            "failed>": str(row.failed or ""),
            "waiting>": str(row.waiting or ""),
            **dict(zip(columns, map(console.percent, row.accuracies), strict=False)),
        }
        for row in rows(plan, _on(split, standings))
    ]


def _on(split: Split, standings: "Standings") -> "Standings":
    """The states with accuracies on the images of a split."""
    if split == "test":
        return standings
    return {digest: replace(standing, top1=standing.val_top1) for digest, standing in standings.items()}


def _line(label: str, standing: "Standing", split: Split = "test") -> str:
    top1 = standing.top1 if split == "test" else standing.val_top1
    name = "top-1" if split == "test" else "val top-1"
    reached = f", {name} {console.percent(top1)} %" if top1 is not None else ""
    why = f": {standing.error}" if standing.error else ""
    return f"{standing.state}: {label}{reached}{why}"


@contextmanager
def _display(plan: "Plan", split: Split) -> "Iterator[Callable[[Standings], None]]":
    """Shows a sweep on stderr: a live table on a terminal, else a line for each run that ends."""
    shown: Any = None

    def draw(standings: "Standings") -> None:
        nonlocal shown
        rows = _rows(plan, standings, split)
        moving = [
            f"{trial.label}: {standing.epoch} of {trial.spec.total_epochs} epochs"
            for trial, standing in ((plan.trials[digest], standing) for digest, standing in standings.items())
            if standing.state == "running"
        ]
        if (now := [*rows, moving]) != shown:
            shown = now
            # What is finished needs no room where there is little.
            most = max(5, console.stderr.height - 6 - len(moving))
            active = [row for row in rows if row["running>"] or row["failed>"]] or rows
            table = console.table_of(rows if len(rows) <= most else active[:most])
            live.update(Group(table, *(Text(console.printable(line)) for line in moving)), refresh=True)

    def write(standings: "Standings") -> None:
        nonlocal shown
        lines = {digest: _line(plan.trials[digest].label, standing, split) for digest, standing in standings.items()}
        done = f"{sum(standing.state == 'finished' for standing in standings.values())} of {len(lines)} done"
        if shown is None:
            console.say(done)
        for digest, line in lines.items():
            if shown is not None and line != shown[digest] and standings[digest].state != "waiting":
                console.say(f"{done}; {line}")
        shown = lines

    if not console.stderr.is_terminal:
        yield write
        return
    with Live(console=console.stderr, auto_refresh=False, transient=True) as live:
        yield draw


def show(plan: "Plan", standings: "Standings", *, as_json: bool) -> None:
    """Show the state of a plan's runs."""
    from tekapctl.experiments.sweeps.state import result

    if as_json:
        console.show_json(result(plan, standings))
        return
    console.show_table(plan.name, _rows(plan, standings))
    for digest, standing in standings.items():
        label = plan.trials[digest].label
        if standing.error:
            console.say(_line(label, standing))
        if standing.note:
            console.say(f"{label}: {standing.note}")


def conclude(standings: "Standings", how: How) -> None:
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
    return any(getattr(trial.spec, "cache_teacher", False) for trial in plan.trials.values())


def estimate(plan: "Plan", folder: "SweepFolder", workers: int, *, measured: bool, as_json: bool) -> None:
    """Show the cost of a plan's runs."""
    from tekapctl.experiments.sweeps.cost import costs, hours

    with counting("kinds of runs", "measuring" if measured else "estimating") as progress:
        found = costs(plan, look(plan, folder), folder, measured=measured, report=progress)
    total = hours(found, workers) if measured else None
    macs = sum(each.left * each.macs for each in found)
    left, trials = sum(each.left for each in found), len(plan.trials)
    published = {label: plan.trials[digests[0]].published for label, digests in plan.groups.items()}
    if as_json:
        groups = [{**asdict(each), "published_top1": published[each.label]} for each in found]
        numbers = {"trials": trials, "left": left, "macs": macs, "hours": total, "workers": workers}
        console.show_json({"sweep": plan.name, **numbers, "groups": groups})
        return
    console.show_table(
        plan.name,
        [
            {
                "": each.label,
                "runs>": str(each.trials),
                "done>": str(each.trials - each.left),
                "MACs/run>": f"{each.macs:.3g}",
                "memory>": console.format_bytes(each.memory_bytes),
                "time/run>": "" if each.seconds is None else console.duration(each.seconds),
                "paper %>": console.percent(published[each.label]),
            }
            for each in found
        ],
    )
    if measured and _caches(plan):
        console.say("times assume a full teacher cache; filling it takes extra time once")
    show_what_is_left(left, trials, macs, total, workers)


def show_what_is_left(left: int, runs: int, macs: float, hours: float | None, workers: int) -> None:
    """Show how many runs are to do, and what they cost, if that is known with their time."""
    time = "" if hours is None else f", about {console.duration(3600 * hours)} with {counted(workers, 'worker')}"
    console.show_text(f"{left} of {runs} runs to do: {macs:.3g} MACs{time}")
