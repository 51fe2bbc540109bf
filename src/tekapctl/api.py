"""What the commands do, as functions: `from tekapctl import distill, evaluate, load_student`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tekapctl import registry
from tekapctl.commands.evaluate import evaluate as evaluate_command
from tekapctl.errors import UsageError
from tekapctl.models import Network
from tekapctl.spec import StudentSpec, TeacherSpec, parse
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.run import execute, resume
from tekapctl.train.step import Metrics

__all__ = ["distill", "evaluate", "load_student", "resume_run", "train_teacher"]

S = TypeVar("S", TeacherSpec, StudentSpec)
OnEpoch = Callable[[Metrics], None]


class _Told:
    """Tells a function of each epoch."""

    def __init__(self, on_epoch: OnEpoch | None) -> None:
        self._on_epoch = on_epoch

    def on_start(self, epochs: int, steps: int, first_epoch: int) -> None: ...

    def on_step(self, epoch: int, step: int) -> None: ...

    def on_epoch(self, metrics: Metrics) -> None:
        if self._on_epoch is not None:
            self._on_epoch(metrics)


def train_teacher(
    spec: TeacherSpec | None = None, *, home: Path | str | None = None, on_epoch: OnEpoch | None = None, **fields: Any
) -> dict[str, Any]:
    """Train a network alone.

    Args:
        spec: What to train; or give its fields.
        home: Where runs, teachers and data sets are kept; `TEKAPCTL_HOME` or the user's data folder if None.
        on_epoch: Is told the metrics of each epoch.
        fields: Fields of `TeacherSpec`, such as `model="resnet20", data="digits", epochs=20`.

    Returns:
        The run's summary: its id under `run`, `last_top1` and `best_top1` as shares, `evaluation`, and more.

    Raises:
        UsageError: The spec is not valid, or asks for what is not to be had.
        TekapctlError: The run failed; `resume_run` goes on with it.
    """
    return execute(_spec(spec, TeacherSpec, "teacher", fields), _home(home), _Told(on_epoch))


def distill(
    spec: StudentSpec | None = None, *, home: Path | str | None = None, on_epoch: OnEpoch | None = None, **fields: Any
) -> dict[str, Any]:
    """Distil a student from a teacher, and by default from its augmented teachers (TeKAP).

    Args:
        spec: What to distil; or give its fields.
        home: Where runs, teachers and data sets are kept; `TEKAPCTL_HOME` or the user's data folder if None.
        on_epoch: Is told the metrics of each epoch.
        fields: Fields of `StudentSpec`, such as `teacher="resnet32x4", method="crd", alpha=1, beta=0.8`.

    Returns:
        The run's summary, as of `train_teacher`, with `method` and `teacher`.

    Raises:
        UsageError: The spec is not valid, or asks for what is not to be had.
        TekapctlError: The run failed; `resume_run` goes on with it.
    """
    return execute(_spec(spec, StudentSpec, "student", fields), _home(home), _Told(on_epoch))


def resume_run(reference: str, *, home: Path | str | None = None, on_epoch: OnEpoch | None = None) -> dict[str, Any]:
    """Go on with a run that was stopped.

    Args:
        reference: Its id, a unique prefix of it, or `latest`.
        home: Where it is.
        on_epoch: Is told the metrics of each epoch.

    Raises:
        UsageError: There is no such run, or it is finished.
    """
    return resume(reference, _home(home), _Told(on_epoch))


def evaluate(reference: str, *, home: Path | str | None = None, **options: Any) -> dict[str, Any]:
    """Measure a trained network on its test images, and a student against its teacher.

    Args:
        reference: A run, a checkpoint file, or a network's name.
        home: Where runs and data sets are.
        options: As of `tekapctl.commands.evaluate.evaluate`: `dataset`, `best`, `device`, `precision` and others.

    Returns:
        `evaluation` holds accuracies as shares, calibration, agreement with the teacher, size and speed.

    Raises:
        UsageError: There is no such network, or its data are not to be had.
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
    """A trained network, on the CPU, in evaluation mode; teachers are loaded alike.

    Args:
        reference: A run, a checkpoint file, or a network's name.
        home: Where runs are.
        best: Take a run's best epoch's weights, not the last's.
        model: The network of a checkpoint file that does not say it.
        model_args: Its arguments, where it is from elsewhere.

    Returns:
        Called with `network.normalize(pixels)`, pixels `[batch, c, h, w]` from 0 to 255, it returns logits `[batch,
        classes]`; its `knowledge` returns embeddings and feature maps too.

    Raises:
        UsageError: There is no such network, or its file is damaged.
    """
    registry.allow_named_in(model)
    found = trained.find(_home(home), reference)
    return trained.load(trained.best_of(found) if best else found, model=model, arguments=model_args).network


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


def _silent(_: str) -> None: ...
