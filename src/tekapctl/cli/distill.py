"""`tekapctl distill`."""

from typing import Any

from tekapctl.cli import options, train
from tekapctl.cli.student import with_student_options


@with_student_options
def distill(spec: Any, dry_run: options.DryRun = False, as_json: options.Json = False) -> None:
    """Distil a student from a teacher, and by default from its augmented teachers (TeKAP).

    Examples:
    tekapctl distill --method kd -r 0.1 -a 0.9 -b 0          TeKAP at the logit level

    tekapctl distill --method crd --alpha 0 --beta 0.8       TeKAP at the feature level

    tekapctl distill --method crd --alpha 1 --beta 0.8       both

    tekapctl distill --method crd --no-tekap                 plain CRD
    """
    train.run(spec, as_json=as_json, dry_run=dry_run)
