"""The Python API: `from tekapctl import distill, evaluate, load_student`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tekapctl import registry
from tekapctl.commands.evaluate import evaluate as evaluate_command
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.spec import StudentSpec, TeacherSpec, parse
from tekapctl.store.home import Home
from tekapctl.train import references, trained
from tekapctl.train.callbacks import NullCallback
from tekapctl.train.run import execute, resume, train_longer
from tekapctl.train.step import Metrics

__all__ = ["distill", "evaluate", "load_student", "resume_run", "train_teacher"]

S = TypeVar("S", TeacherSpec, StudentSpec)
OnEpoch = Callable[[Metrics], None]


class _EpochCallback(NullCallback):
    """Calls a function after each epoch."""

    def __init__(self, on_epoch: OnEpoch | None) -> None:
        self._on_epoch = on_epoch

    def on_epoch(self, metrics: Metrics) -> None:
        if self._on_epoch is not None:
            self._on_epoch(metrics)


def train_teacher(
    spec: TeacherSpec | None = None, *, home: Path | str | None = None, on_epoch: OnEpoch | None = None, **fields: Any
) -> dict[str, Any]:
    """Train a network without a teacher.

    Args:
        spec: The run's spec; or give its fields.
        home: Folder of runs, teachers and datasets; `TEKAPCTL_HOME` or the user's data folder if None.
        on_epoch: Called with the metrics of each epoch.
        fields: Fields of `TeacherSpec`, such as `model="resnet20", data="digits", epochs=20`.

    Returns:
        The run's summary: its id under `run`, `last_top1` and `best_top1` as fractions, `evaluation`, and more.

    Raises:
        UsageError: The spec is not valid, or something it names is not available.
        TekapctlError: The run failed; `resume_run` resumes it.
    """
    return execute(_spec(spec, TeacherSpec, "teacher", fields), _home(home), _EpochCallback(on_epoch))


def distill(
    spec: StudentSpec | None = None, *, home: Path | str | None = None, on_epoch: OnEpoch | None = None, **fields: Any
) -> dict[str, Any]:
    """Distill a student from a teacher and, with kd and crd, from its augmented teachers (TeKAP).

    Args:
        spec: The run's spec; or give its fields.
        home: Folder of runs, teachers and datasets; `TEKAPCTL_HOME` or the user's data folder if None.
        on_epoch: Called with the metrics of each epoch.
        fields: Fields of `StudentSpec`, such as `teacher="resnet32x4", method="crd", alpha=1, beta=0.8`.

    Returns:
        The run's summary as in `train_teacher`, with `method` and `teacher`.

    Raises:
        UsageError: The spec is not valid, or something it names is not available.
        TekapctlError: The run failed; `resume_run` resumes it.
    """
    return execute(_spec(spec, StudentSpec, "student", fields), _home(home), _EpochCallback(on_epoch))


def resume_run(
    reference: str, *, epochs: int | None = None, home: Path | str | None = None, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """Resume an interrupted or failed run, or train a finished run longer, as a new run.

    Args:
        reference: Run ID, unique prefix or suffix, or `latest`.
        epochs: Train the finished run for so many epochs in total, from its last state.
        home: Folder of runs.
        on_epoch: Called with the metrics of each epoch.

    Raises:
        UsageError: There is no such run; it is finished, or with `epochs` it is not.
    """
    if epochs is not None:
        return train_longer(reference, epochs, _home(home), _EpochCallback(on_epoch))
    return resume(reference, _home(home), _EpochCallback(on_epoch))


def evaluate(reference: str, *, home: Path | str | None = None, **options: Any) -> dict[str, Any]:
    """Evaluate a trained network on its test images, and compare a student with its teacher.

    Args:
        reference: A run, a checkpoint file, or a network's name.
        home: Folder of runs and datasets.
        options: See `tekapctl.commands.evaluate.evaluate`: `dataset`, `best`, `device`, `precision` and others.

    Returns:
        `evaluation` has accuracies as fractions, calibration, agreement with the teacher, size and speed.

    Raises:
        UsageError: There is no such network, or its data is not available.
    """
    registry.allow_named_in(options)
    return evaluate_command(_home(home), reference, **options)


def load_student(
    reference: str,
    *,
    home: Path | str | None = None,
    best: bool = False,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
) -> Network:
    """Load a trained student or teacher, on the CPU and in evaluation mode.

    Args:
        reference: A run, a checkpoint file, or a network's name.
        home: Folder of runs.
        best: Load the weights of the best epoch instead of the last.
        model: Architecture of a checkpoint file that does not name it.
        model_args: Keyword arguments of an external network.

    Returns:
        A network that maps `network.normalize(pixels)`, pixels `[batch, c, h, w]` from 0 to 255, to logits `[batch,
        classes]`. Its method `knowledge` also returns embeddings and feature maps.

    Raises:
        UsageError: There is no such network, or its file is damaged.
    """
    registry.allow_named_in(model)
    found = references.find(_home(home), reference)
    return trained.load(
        references.weights_of(found, "best") if best else found, model=model, arguments=model_args
    ).network


def _spec(spec: S | None, kind: type[S], name: str, fields: dict[str, Any]) -> S:
    if spec is not None:
        if fields:
            raise UsageError("A spec and fields were given.", "Give one of them.")
        return spec
    registry.allow_named_in(fields)
    found = parse({"kind": name, **fields})
    assert isinstance(found, kind)
    return found


def _home(folder: Path | str | None) -> Home:
    return Home.default() if folder is None else Home(Path(folder))
