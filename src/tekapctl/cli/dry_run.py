"""What `--dry-run` of `train-teacher` and `distill` prints: the spec, its cost, and its time on this machine."""

from typing import Any

from tekapctl.cli import console
from tekapctl.cli.own_images import Fit
from tekapctl.store.home import Home


def estimate(spec: Any, *, measured: bool, as_json: bool, fit_teacher: Fit = "none") -> None:
    """Print a run's spec and cost."""
    from tekapctl.commands import cost as costs
    from tekapctl.commands.bench import measure
    from tekapctl.experiments.fitted_teacher import estimable, fitting_spec
    from tekapctl.spec import dumps, to_dict

    home = Home.default()
    first = fitting_spec(spec, home, fit_teacher) if spec.kind == "student" else None
    shown = spec
    if first is not None:
        spec = estimable(spec, first)
    cost = costs.estimate(spec, home)
    # The student first: on a CPU, the peak of the memory is that of the whole process.
    runs = [each for each in (spec, first) if each is not None]
    if measured and not (spec.kind == "student" and spec.ensemble):
        console.say("measuring a few steps; --no-measure skips this")
        times = [measure(each, home) for each in runs]
    else:
        times = []
    if as_json:
        found = {"spec": to_dict(shown), "cost": cost, "measured": times[0] if times else None}
        if first is not None:
            found["teacher"] = {"spec": to_dict(first), "measured": times[1] if times else None}
        console.show_json(found)
        return
    console.show_text(dumps(shown))
    fields = {
        "# parameters": f"{cost.parameters:,}",
        "# MACs per image": f"{cost.macs:,}",
        "# MACs per image, teacher": "none" if cost.teacher_macs is None else f"{cost.teacher_macs:,}",
        "# steps": f"{cost.steps:,} ({cost.steps_per_epoch:,} per epoch)",
        "# MACs in total": f"{cost.total_macs:.3g}",
        "# peak memory, estimated": console.format_bytes(cost.memory_bytes),
    }
    if times:
        fields["# time, measured"] = console.duration(times[0].seconds)
        scope = f"of the {times[0].memory_scope}"
        fields["# peak memory, measured"] = f"{console.format_bytes(times[0].memory_bytes)} {scope}"
    if first is not None:
        how = "linear probe" if first.linear_probe else "fine-tuning"
        time = ""
        if times:
            time = f", {console.duration(times[1].seconds)}, {console.format_bytes(times[1].memory_bytes)}"
        fields["# before it"] = f"{how} of {first.model}, {first.epochs} epochs{time}"
    console.show_fields(fields)
