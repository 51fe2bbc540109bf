"""Shared by `train-teacher` and `distill`: run a spec and show the results."""

import statistics
from typing import TYPE_CHECKING, Any

import typer

from tekapctl.cli import console, options

if TYPE_CHECKING:
    from tekapctl.spec import StudentSpec, TeacherSpec


def run(spec: "TeacherSpec | StudentSpec", *, as_json: bool, dry_run: bool, processes: int) -> None:
    """Run a spec with one or more processes, or estimate its cost."""
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
    """Train several seeds of a spec at once and show their results."""
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
    """Show the finished runs of several seeds, and their mean."""
    rows = [
        (each["run"], str(each["seed"]), console.percent(each["last_top1"]), console.percent(each["best_top1"]))
        for each in finished
    ]
    console.show_table("Top-1 accuracy", ["run=", "seed>", "last %>", "best %>"], rows, optional=["best %"])
    if len(finished) > 1:
        found = [100 * summary["last_top1"] for summary in finished]
        fields = {"mean": f"{statistics.mean(found):.2f} % after the last epoch, std {statistics.stdev(found):.2f}"}
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
            "# MACs per image": f"{cost.macs:,}",
            "# MACs per image, teacher": "none" if cost.teacher_macs is None else f"{cost.teacher_macs:,}",
            "# steps": f"{cost.steps:,} ({cost.steps_per_epoch:,} per epoch)",
            "# MACs in total": f"{cost.total_macs:.3g}",
            "# peak memory, estimated": console.format_bytes(cost.memory_bytes),
        }
    )


def show_summary(summary: dict[str, Any]) -> None:
    """Show the results of a finished run, and the next command."""
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
