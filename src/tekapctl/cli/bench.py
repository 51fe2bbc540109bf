"""`tekapctl bench`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import console, options
from tekapctl.cli.build_spec import with_spec_options


@with_spec_options("student")
def bench(
    spec: Any,
    steps: Annotated[
        int,
        typer.Option("--steps", metavar="N", min=3, max=10_000, help="Steps to time.", rich_help_panel="Execution"),
    ] = 30,
    as_json: options.Json = False,
) -> None:
    """Time the phases of a training step and estimate the time of the whole run.

    Takes the options of `distill`. If the teacher or the dataset has not been downloaded, random weights and images
    of the same shape are used instead.

    Example: tekapctl bench --method crd --alpha 1 --beta 0.8 --cache-teacher
    """
    from tekapctl.commands.bench import measure_steps
    from tekapctl.store.home import Home

    found = measure_steps(spec, Home.default(), steps)
    if as_json:
        console.show_json(found.to_dict())
        return
    total = sum(found.phase_seconds.values())
    console.show_table(
        f"{found.teacher} > {found.student}, {spec.method.name}, batch size {spec.batch_size}, on {found.device}",
        ["phase", "ms>", "%>"],
        [(name, f"{1000 * time:.2f}", f"{100 * time / total:.1f}") for name, time in found.phase_seconds.items()],
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
