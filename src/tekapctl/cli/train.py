"""What `train-teacher` and `distill` share: carry out a spec and show what came of it."""

import statistics
from typing import TYPE_CHECKING, Any

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
    from tekapctl.spec import StudentSpec, TeacherSpec


def run(spec: "TeacherSpec | StudentSpec", *, as_json: bool, dry_run: bool, processes: int) -> None:
    """Carry out a spec with so many processes, or estimate it."""
    from tekapctl.store.home import Home
    from tekapctl.train.run import execute

    home = Home.default()
    if dry_run:
        _estimate(spec, home, as_json=as_json)
        return
    options.divide(processes)
    with options.progress(spec.network) as progress:
        summary = execute(spec, home, progress)
    if not options.is_main():
        return
    if as_json:
        console.show_json(summary)
    else:
        show_summary(summary)


def run_trials(spec: "StudentSpec", count: int, *, as_json: bool) -> None:
    """Carry out a spec with so many seeds, and show what came of all."""
    from tekapctl.store.home import Home
    from tekapctl.train.many import execute_seeds

    with console.TrainingProgress(f"{count} x {spec.network}") as progress:
        summaries = execute_seeds(spec, count, Home.default(), progress)
    finished = [summary for summary in summaries if summary["status"] == "finished"]
    if as_json:
        console.show_json(summaries)
    else:
        _show_trials(finished)
    if len(finished) < count:
        raise typer.Exit(1)


def _show_trials(finished: list[dict[str, Any]]) -> None:
    """The finished runs of several seeds, and their mean."""
    rows = [
        (each["run"], str(each["seed"]), console.percent(each["last_top1"]), console.percent(each["best_top1"]))
        for each in finished
    ]
    console.show_table("top-1 of each seed", ["run", "seed>", "last epoch %>", "best epoch %>"], rows)
    if len(finished) > 1:
        found = [100 * summary["last_top1"] for summary in finished]
        fields = {
            "mean": f"{statistics.mean(found):.2f} % after the last epoch, deviation {statistics.stdev(found):.2f}"
        }
        console.show_fields({**fields, "time": console.duration(max(each["seconds"] for each in finished))})


def _estimate(spec: "TeacherSpec | StudentSpec", home: Any, *, as_json: bool) -> None:
    from tekapctl.commands.cost import estimate
    from tekapctl.spec import dumps, to_dict

    cost = estimate(spec, home)
    if as_json:
        console.show_json({"spec": to_dict(spec), "cost": cost.to_dict()})
        return
    console.show_text(dumps(spec))
    console.show_fields(
        {
            "# parameters": f"{cost.parameters:,}",
            "# MACs an image, learner": f"{cost.macs:,}",
            "# MACs an image, teacher": "none" if cost.teacher_macs is None else f"{cost.teacher_macs:,}",
            "# steps": f"{cost.steps:,} ({cost.steps_per_epoch:,} an epoch)",
            "# MACs of the whole run": f"{cost.total_macs:.3g}",
            "# memory at most about": console.size(cost.memory_bytes),
        }
    )


def show_summary(summary: dict[str, Any]) -> None:
    """A finished run, and what to do next."""
    evaluation = summary["evaluation"]
    fields = {
        "run": summary["run"],
        "top-1": f"{console.percent(summary['last_top1'])} % after the last epoch "
        f"(best {console.percent(summary['best_top1'])} % in epoch {summary['best_epoch']})",
        "parameters": f"{evaluation['parameters']:,}",
        "time": console.duration(summary["seconds"]),
    }
    if "teacher" in summary:
        fields["teacher"] = f"{summary['teacher']['model']}, top-1 {console.percent(summary['teacher']['top1'])} %"
        fields["agreement"] = f"{console.percent(evaluation['agreement'])} % with the teacher"
    fields["next"] = f"tekapctl evaluate {summary['run']}"
    console.show_fields(fields)
