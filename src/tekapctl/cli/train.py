"""What `train-teacher` and `distill` share: carry out a spec and show what came of it."""

from typing import TYPE_CHECKING, Any

from tekapctl.cli import console, parallel

if TYPE_CHECKING:
    from tekapctl.spec import StudentSpec, TeacherSpec


def run(spec: "TeacherSpec | StudentSpec", *, as_json: bool, dry_run: bool, processes: int) -> None:
    """Carry out a spec with so many processes, or estimate it."""
    from tekapctl.engine.execute import execute
    from tekapctl.store.home import Home

    home = Home.default()
    if dry_run:
        _estimate(spec, home, as_json=as_json)
        return
    parallel.divide(processes)
    with parallel.progress(spec.network) as progress:
        summary = execute(spec, home, progress, console.say)
    if not parallel.leads():
        return
    if as_json:
        console.show_json(summary)
    else:
        show_summary(summary)


def _estimate(spec: "TeacherSpec | StudentSpec", home: Any, *, as_json: bool) -> None:
    from tekapctl.engine.cost import estimate
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
