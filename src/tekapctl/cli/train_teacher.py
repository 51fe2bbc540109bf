"""`tekapctl train-teacher`."""

from typing import Any

from tekapctl.cli import options, train
from tekapctl.cli.build_spec import with_spec_options


@with_spec_options("teacher")
def train_teacher(
    spec: Any,
    processes: options.Processes = 1,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a network without a teacher: a teacher, or the baseline of a student.

    Examples:
    tekapctl train-teacher --model resnet32x4 --dataset cifar100
    tekapctl train-teacher --model timm:resnet18 --dataset folder:photographs
    """
    train.run(spec, as_json=as_json, dry_run=dry_run, processes=processes)
