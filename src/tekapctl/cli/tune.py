"""`tekapctl tune`."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from tekapctl.cli import console, options, sweeping
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.cli.options import option
from tekapctl.cli.own_images import FitTeacher, with_fitted_teacher, with_untrained_teacher
from tekapctl.cli.progress import counting
from tekapctl.cli.spec_options import TABLE
from tekapctl.errors import UsageError, counted
from tekapctl.store.home import Home

if TYPE_CHECKING:
    from tekapctl.experiments.comparison.statistics import Summary
    from tekapctl.experiments.sweeps.plan import Plan
    from tekapctl.experiments.tuning.candidates import Candidate
    from tekapctl.experiments.tuning.planning import Tuning
    from tekapctl.experiments.tuning.tune import Result


@with_spec_options("student")
def tune(
    spec: Any,
    search: Annotated[
        list[str] | None,
        option(
            "--search FIELD=VALUES",
            "Spec field to search, with a range such as 0.1..10, or values such as 2,4,8. Repeatable. [default: the "
            "weights and temperatures of the method]",
            "Search",
        ),
    ] = None,
    trials: Annotated[
        int, option("--trials N", "Candidates to try, besides the default settings.", "Search", min=1, max=10_000)
    ] = 27,
    eta: Annotated[
        int, option("--eta N", "Promote 1 of N candidates to the next rung, with N times the epochs.", "Search", min=2)
    ] = 3,
    min_epochs: Annotated[
        int | None,
        option("--min-epochs N", "Epochs of the first rung. [default: --epochs / eta^2]", "Search", min=1),
    ] = None,
    seeds: Annotated[int, option("--seeds N", "Seeds per candidate in the last rung.", "Search", min=1, max=1000)] = 3,
    confirm_seeds: Annotated[
        int,
        option(
            "--confirm-seeds N",
            "Fresh seeds on which the winner is compared with the default settings.",
            "Search",
            min=1,
            max=1000,
        ),
    ] = 5,
    fit_teacher: FitTeacher = "finetune",
    workers: sweeping.Workers = None,
    devices: sweeping.Devices = None,
    executor: sweeping.Executor = None,
    slurm: sweeping.Slurm = None,
    retry: sweeping.Retry = False,
    dry_run: sweeping.DryRun = False,
    measured: sweeping.Measure = True,
    as_json: options.Json = False,
) -> None:
    """Search for the weights, temperature and other settings that suit your networks and images.

    Takes the options of `distill`, which describe the default settings. Candidates are trained for a few epochs, and
    the best of them for more (successive halving), judged on validation images. The winner and the default settings are
    then compared on fresh seeds. You can interrupt a search at any time; the same command continues it.

    Examples:
    tekapctl tune --teacher resnet20 --student resnet8 --dataset digits --dry-run
    tekapctl tune --method crd --search beta=0.1..10 --search alpha=0,1
    tekapctl tune --search temperature=2,4,8 --search optimizer.momentum=0.8..0.95
    """
    from tekapctl.experiments.sweeps.folder import SweepFolder
    from tekapctl.experiments.tuning import planning
    from tekapctl.experiments.tuning import tune as tuning
    from tekapctl.experiments.tuning.space import default_axes, read_axes

    home, command = Home.default(), shlex.join(["tekapctl", *sys.argv[1:]])
    how = sweeping.How(workers, devices, executor, slurm, retry, command, "tekapctl runs list")
    _check_names(search or [])
    axes = read_axes(search, spec) if search else default_axes(spec)
    spec = (with_untrained_teacher if dry_run else with_fitted_teacher)(spec, fit_teacher)
    planned = planning.prepare(
        spec,
        home,
        axes,
        trials=trials,
        eta=eta,
        min_epochs=min_epochs,
        seeds=seeds,
        confirm_seeds=confirm_seeds,
        is_dry=dry_run,
    )
    folder = SweepFolder(home, planned.name)
    if not spec.data.val_fraction:
        console.say(f"holding out {planned.val_fraction:.0%} of the training images for validation (--val-fraction)")
    if dry_run:
        begun = tuning.tune(planned, home, lambda _, plan: sweeping.look(plan, folder), write=False)
        _estimate(planned, begun, folder, workers or 1, measured=measured, as_json=as_json)
        return

    def execute(title: str, plan: "Plan") -> Any:
        known = sweeping.look(plan, folder)
        left = sum(each.state != "finished" and (retry or not each.diverged) for each in known.values())
        candidates = counted(len(plan.groups), "candidate")
        epochs = counted(next(iter(plan.trials.values())).spec.epochs, "epoch")
        console.say(f"{title}: {candidates}, {epochs}, {left} of {len(known)} runs to do")
        return sweeping.carry_out(plan, folder, how, split="val") if left else known

    for axis in planned.axes:
        console.say(f"searching {axis.field}: {axis.values}")
    found = tuning.tune(planned, home, execute)
    if as_json:
        console.show_json({**found.to_dict(), "command": _command(found)})
    else:
        _show(found)
    if found.confirmation is None:
        standings = {digest: each for digest, each in found.stages[-1].standings.items() if not each.diverged}
        if executor is not None and any(each.state not in ("finished", "failed") for each in standings.values()):
            console.say(f"when the jobs have ended, continue with `{command}`")
            return
        sweeping.conclude(standings, replace(how, executor=None, slurm=None))


def _check_names(texts: list[str]) -> None:
    """Check that no option is searched by its name.

    Raises:
        UsageError: One is, whose field has another name.
    """
    paths = {each.flag[2:]: each.path for each in TABLE if each.path and each.fields is None}
    for text in texts:
        name, _, values = text.partition("=")
        path = paths.get(name.strip().lstrip("-").replace("_", "-"))
        if path is not None and path.partition(".")[0] != name.strip():
            raise UsageError(f"--search {text!r} does not name a field of the spec.", f"Write it as {path}={values}.")


def _listed(seeds: Sequence[int]) -> str:
    """Consecutive seeds, in ascending order."""
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def _mean(summary: "Summary | None") -> str:
    return "" if summary is None else console.percent(summary.mean)


def _command(found: "Result") -> str | None:
    return None if found.spec_file is None else shlex.join(["tekapctl", "distill", "--spec", str(found.spec_file)])


def _show(found: "Result") -> None:
    from tekapctl.experiments.comparison.table import difference_cells

    rows = [
        {
            "candidate>": str(score.candidate.number or "default"),
            **_settings(score.candidate),
            "rung>": f"{score.rung.number}",
            "epochs>": f"{score.rung.epochs:,}",
            "val top-1 %>": "diverged" if score.diverged else _mean(score.val_top1),
            "std>": console.percent(score.val_top1.std) if score.val_top1 else "",
        }
        for score in found.ranking
    ]
    console.show_table(
        f"{found.tuning.name}: candidates by the last rung they reached", _without_empty(rows), optional=["std>"]
    )
    confirmation = found.confirmation
    if confirmation is None:
        return
    lines = []
    for images, compared in (("validation", confirmation.val), ("test", confirmation.test)):
        for name, summary in (("winner", compared.winner), ("default", compared.default)):
            if summary is None:
                continue
            difference = compared.difference if name == "winner" else None
            mean, interval = difference_cells(difference, 100.0)
            lines.append(
                {
                    "images": images,
                    "settings=": "default" if confirmation.verdict == "default" else name,
                    "seeds>": str(summary.seeds),
                    "top-1 %>": console.percent(summary.mean),
                    "std>": console.percent(summary.std),
                    "difference>": mean,
                    "95 % CI>": interval,
                }
            )
    console.show_text("")
    title = f"Confirmation on fresh seeds ({_listed(confirmation.seeds)})"
    console.show_table(title, _without_empty(lines))
    console.show_text("")
    console.show_text(f"Winner: {confirmation.winner.described}")
    for sentence in confirmation.sentences:
        console.show_text(sentence)
    console.show_text(
        f"Spent: {counted(found.runs, 'run')}, {counted(found.epochs, 'epoch')}, "
        f"{counted(len(found.seeds), 'seed')} ({_listed(found.seeds)})."
    )
    console.show_text(f"\n{_command(found)}")


_FIELD_COLUMNS = 4
"""More fields than this share a column, in which they may be wrapped."""


def _settings(candidate: "Candidate") -> dict[str, str]:
    """A candidate's values as cells of the table."""
    from tekapctl.experiments.identity import in_words
    from tekapctl.experiments.tuning.space import in_short, short_names

    if len(candidate.settings) > _FIELD_COLUMNS:
        return {"settings": in_short(candidate.settings)}
    names = short_names(candidate.settings)
    return {
        f"{names[field]}>": "unset" if value is None else in_words(value) for field, value in candidate.settings.items()
    }


def _without_empty(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows without the columns in which none has a value."""
    filled = {column for row in rows for column, cell in row.items() if cell}
    return [{column: cell for column, cell in row.items() if column in filled} for row in rows]


def _estimate(planned: "Tuning", begun: "Result", folder: Any, workers: int, *, measured: bool, as_json: bool) -> None:
    """Show the stages of a search and their cost."""
    from tekapctl.experiments.tuning.cost import hours, stage_costs

    with counting("kinds of runs", "measuring" if measured else "estimating") as progress:
        stages = stage_costs(begun, folder, measured=measured, report=progress)
    left, runs = sum(each.left for each in stages), sum(each.runs for each in stages)
    macs, time = sum(each.left * each.macs for each in stages), hours(stages, workers)
    if as_json:
        fields = {axis.field: axis.values.to_dict() for axis in planned.axes}
        numbers = {"runs": runs, "left": left, "macs": macs, "hours": time, "workers": workers}
        what = {"tune": planned.name, "search": fields, "val_fraction": planned.val_fraction}
        console.show_json({**what, **numbers, "stages": [each.to_dict() for each in stages]})
        return
    console.show_table("Search", [{"field=": axis.field, "values": str(axis.values)} for axis in planned.axes])
    console.show_text("")
    rows = [
        {
            "stage=": each.stage,
            "candidates>": str(each.candidates),
            "seeds>": str(len(each.seeds)),
            "epochs>": f"{each.epochs:,}",
            "runs>": str(each.runs),
            "done>": str(each.runs - each.left),
            "MACs/run>": f"{each.macs:.3g}",
            "time/run>": "" if each.seconds is None else console.duration(each.seconds),
        }
        for each in stages
    ]
    console.show_table(planned.name, rows)
    sweeping.show_what_is_left(left, runs, macs, time, workers)
