"""`tekapctl distill`."""

from typing import Annotated, Any

import typer

from tekapctl.cli import options, resume, train
from tekapctl.cli.student import with_student_options
from tekapctl.errors import UsageError


@with_student_options
def distill(
    spec: Any,
    resumed: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run; its spec holds, no options.")
    ] = None,
    effects: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            help="Of TeKAP keep only this effect: weight, shrink, noise; with crd also student-term, bank-updates. "
            "May be given several times.",
        ),
    ] = None,
    processes: options.Processes = 1,
    trials: Annotated[
        int,
        typer.Option(
            "--trials",
            min=1,
            max=1000,
            help="So many seeds, from the spec's on, trained together: one teacher for all.",
        ),
    ] = 1,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Distil a student from a teacher, and by default from its augmented teachers (TeKAP).

    Examples:
    tekapctl distill --method kd -r 0.1 -a 0.9 -b 0          TeKAP at the logit level

    tekapctl distill --method crd --alpha 0 --beta 0.8       TeKAP at the feature level

    tekapctl distill --method crd --alpha 1 --beta 0.8       both

    tekapctl distill --method crd --no-tekap                 plain CRD

    tekapctl distill --method kd --control weight            KD that weighs as much as TeKAP, without noise
    """
    if resumed is not None:
        if spec != type(spec).model_validate({"kind": "student"}) or dry_run:
            raise UsageError("--resume goes on with a run as it is.", "Leave out the other options.")
        resume.go_on(resumed, as_json=as_json, processes=processes)
        return
    if effects:
        from tekapctl.spec.effects import keep

        spec = keep(spec, effects)
    if trials > 1 and not dry_run:
        if processes > 1:
            raise UsageError("Trials share one process, and --nproc asks for several.", "Leave out one of them.")
        train.run_trials(spec, trials, as_json=as_json)
        return
    train.run(spec, as_json=as_json, dry_run=dry_run, processes=processes)
