"""`tekapctl distill`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import complete, options, resume, train
from tekapctl.cli.build_spec import with_spec_options
from tekapctl.errors import UsageError


@with_spec_options("student")
def distill(
    spec: Any,
    resumed: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Resume this run with its own spec; other options are not allowed.",
            rich_help_panel="Run",
            autocompletion=complete.runs,
        ),
    ] = None,
    effects: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-effect",
            metavar="EFFECT",
            help="Keep only this effect of TeKAP: weight, shrink or noise; with crd also student-term or "
            "bank-updates. Repeatable.",
            rich_help_panel="TeKAP",
            autocompletion=complete.effects,
        ),
    ] = None,
    processes: options.Processes = 1,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            max=1000,
            help="Train N seeds at once, starting with --seed, sharing the teacher's forward pass.",
            rich_help_panel="Run",
        ),
    ] = 1,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Distill a student from a teacher.

    With kd and crd the student also learns from augmented teachers (TeKAP); --no-tekap turns that off.

    Examples:
    tekapctl distill --method kd                            # KD + TeKAP
    tekapctl distill --method kd --no-tekap                 # plain KD
    tekapctl distill --method crd --alpha 1 --beta 0.8      # CRD + KD + TeKAP
    tekapctl distill --teacher resnet32x4 --student resnet8x4 --method dkd
    tekapctl distill --preset dkd/resnet32x4-resnet8x4      # as published
    tekapctl distill --method kd --keep-effect weight       # ablation of TeKAP
    """
    if resumed is not None:
        if spec != type(spec).model_validate({"kind": "student"}) or dry_run:
            raise UsageError("--resume continues a run with its own spec.", "Leave out the other options.")
        resume.go_on(resumed, as_json=as_json, processes=processes)
        return
    if effects:
        from tekapctl.spec.effects import keep

        spec = keep(spec, effects)
    if seeds > 1 and not dry_run:
        if processes > 1:
            raise UsageError("--seeds trains in one process, and --nproc asks for several.", "Leave out one of them.")
        train.run_trials(spec, seeds, as_json=as_json)
        return
    train.run(spec, as_json=as_json, dry_run=dry_run, processes=processes)
