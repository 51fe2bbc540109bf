"""Training a finished run longer: a new run that starts from the last state of the finished one."""

import shutil
from collections.abc import Sequence

import torch

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec, load_of_run, parse, to_dict
from tekapctl.store.atomic import atomic_file
from tekapctl.store.run import WEIGHTS, Run
from tekapctl.train import checkpoint


def continued(source: Run, epochs: int, track: Sequence[str] = ()) -> TeacherSpec | StudentSpec:
    """The spec of a run that trains a finished one longer: the same with more epochs, and with what it continues.

    Raises:
        UsageError: The run is not finished, has as many epochs already, or its last state was not kept.
        TekapctlError: Its last state is damaged.
    """
    if source.status != "finished":
        raise UsageError(
            f"The run {source.id} is {source.status}, and `epochs` trains a finished run longer.",
            f"Finish it first with `tekapctl resume {source.id}`.",
        )
    spec = load_of_run(source.path)
    summary = source.summary() or {}
    if spec.patience and summary.get("epochs_trained", 0) - summary.get("best_epoch", 0) >= spec.patience:
        raise UsageError(
            f"The run {source.id} stopped after {summary['epochs_trained']} epochs, when its validation accuracy no "
            "longer improved.",
            "Train a new run with a larger `patience`.",
        )
    if epochs <= spec.epochs:
        raise UsageError(
            f"The run {source.id} was trained for {spec.epochs} epochs already.",
            f"Set `epochs` to the new total, more than {spec.epochs}.",
        )
    path = checkpoint.place(source.checkpoints, spec.total_epochs, 0)
    if not path.is_file():
        raise UsageError(
            f"The run {source.id} has no checkpoint of its last epoch, so it cannot be trained longer.",
            "Train a new run for more epochs. An imported run has checkpoints if it was exported with `checkpoints`.",
        )
    checkpoint.read(path, torch.device("cpu"))  # before a new run appears
    before = spec.continues.epochs if spec.continues is not None else ()
    return parse(
        {
            **to_dict(spec),
            "epochs": epochs,
            "continues": {"run": source.id, "epochs": [*before, spec.epochs]},
            "track": [*spec.track, *track],
        }
    )


def carry_over(source: Run, run: Run) -> None:
    """Copy what a new run starts from: the last state of the finished run, and its best weights.

    Raises:
        TekapctlError: The finished run was removed, or the disk is full.
    """
    if source.kind() is None:
        raise TekapctlError(
            f"The run {source.id}, which the run {run.id} continues, is not here.", "Import it, or train a new run."
        )
    spec = load_of_run(source.path)
    if (best := source.path / WEIGHTS["best"]).is_file():
        source.check_weights(best)
        run.write_weights(best.name, best.read_bytes())
    path = checkpoint.place(source.checkpoints, spec.total_epochs, 0)
    with path.open("rb") as content, atomic_file(run.checkpoints / path.name) as file:
        shutil.copyfileobj(content, file)


def check_begins_anew(spec: RunSpec) -> None:
    """Check that a spec is that of a run that begins with its first epoch.

    Raises:
        UsageError: It continues another run.
    """
    if spec.continues is not None:
        raise UsageError(
            f"The spec is that of a run that trained {spec.continues.run} longer, from its last state.",
            f"Do the same with `tekapctl resume {spec.continues.run} --epochs {spec.epochs}`, or leave out `continues` "
            "to train all epochs in one go.",
        )
