"""`tekapctl bench`, and what `--dry-run` of `train-teacher` and `distill` prints: spec, cost, time on this machine."""

from typing import Annotated, Any

from tekapctl.cli import console, options
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.cli.options import option
from tekapctl.cli.own_images import Fit
from tekapctl.store.home import Home


@with_spec_options("student")
def bench(
    spec: Any,
    steps: Annotated[int, option("--steps N", "Steps to time.", "Execution", min=3, max=10000)] = 30,
    as_json: options.Json = False,
) -> None:
    """Time the phases of a training step and estimate the time of the whole run.

    Takes the options of `distill` that describe a run. If the teacher or the dataset has not been downloaded, random
    weights and images of the same shape are used instead.

    Example: tekapctl bench --method crd --alpha 1 --beta 0.8 --cache-teacher
    """
    from tekapctl.commands.bench import measure_steps

    found = measure_steps(spec, Home.default(), steps)
    if as_json:
        console.show_json(found)
        return
    total = sum(found.phase_seconds.values())
    console.show_table(
        f"{found.teacher} > {found.student}, {spec.method.name}, batch size {spec.batch_size}, on {found.device}",
        [
            {"phase": name, "ms>": f"{1000 * time:.2f}", "%>": f"{100 * time / total:.1f}"}
            for name, time in found.phase_seconds.items()
        ],
    )
    console.show_fields(
        {
            "step": f"{1000 * found.step_seconds:.2f} ms, {found.step_seconds / found.network_seconds:.2f}x "
            f"the bare networks (teacher forward, student forward and backward: {1000 * found.network_seconds:.2f} ms)",
            "speed": f"{found.images_per_second:,.0f} images/s",
            "precision": f"teacher {found.teacher_precision}, student {found.student_precision}",
            "peak memory": f"{console.format_bytes(found.peak_memory_bytes)} ({found.peak_memory_scope})",
            "whole run": f"{console.duration(found.run_seconds)} for {spec.epochs} epochs, including evaluation",
        }
    )


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
