"""Defaults for a folder of images: pretrained weights, fine-tuning, a validation split and early stopping."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tekapctl.cli.options import option
from tekapctl.cli.progress import Training
from tekapctl.errors import UsageError
from tekapctl.store.home import Home

if TYPE_CHECKING:
    from tekapctl.cli.spec_options import Kind

Fit = Literal["finetune", "probe", "none"]
FitTeacher = Annotated[
    Fit,
    option(
        "--fit-teacher HOW",
        "With your own images and a teacher that does not know their classes, first train it on them: finetune, "
        "probe (its classifier alone) or none.",
        "Networks",
    ),
]
VALIDATION = {"data.val_fraction": 0.1, "patience": 10}
_IMAGES_PER_CLASS = 20
"""With fewer training images per class, a validation split is too small to choose by."""


def pretrained_values(kind: "Kind", values: Mapping[str, Any]) -> dict[str, Any]:
    """Pretrained weights for the network to train, where its library has them and nothing was said about them.

    Args:
        kind: Of the spec.
        values: What was given, by dotted path.

    Returns:
        Further values by path.
    """
    network = values.get("model" if kind == "teacher" else "student")
    given = values.get("model_args", {})
    paths = [path for path in values if path.startswith("model_args.")]
    named = {*given, *(path.removeprefix("model_args.") for path in paths)} if isinstance(given, Mapping) else None
    if not _is_own(values) or not isinstance(network, str) or named is None or named & {"weights", "pretrained"}:
        return {}
    from tekapctl.models.external import pretrained_weights

    found = pretrained_weights(network)
    if found is None:
        return {}
    size = {"data.size": found.size} if kind == "teacher" and "data.size" not in values else {}
    return {"model_args": {**given, "pretrained": True}, **size}


def is_fine_tuning(values: Mapping[str, Any]) -> bool:
    """Whether pretrained weights are trained on the user's own images, by no optimizer or schedule of their choice."""
    arguments = values.get("model_args")
    is_pretrained = isinstance(arguments, Mapping) and bool(arguments.get("weights") or arguments.get("pretrained"))
    chosen = ("optimizer", "optimizer.name", "schedule", "schedule.name")
    return is_pretrained and _is_own(values) and not any(path in values for path in chosen)


def validation_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """A validation split and early stopping where there are enough images; where one of them was given, the other."""
    missing = {path: value for path, value in VALIDATION.items() if path not in values}
    if len(missing) < len(VALIDATION):
        return missing if values.get("data.val_fraction", 1) and values.get("patience", 1) else {}
    from tekapctl.data.names import built_in, data_spec

    section: dict[str, Any] = {"name": values["data"]} if isinstance(values.get("data"), str) else {}
    section |= {path.removeprefix("data."): value for path, value in values.items() if path.startswith("data.")}
    found = built_in(str(section.get("name")))
    located = ("name", "folder", found.field_after_colon if found is not None else None)
    place: dict[str, Any] = {field: section[field] for field in located if field in section}
    try:
        shape = data_spec(place).shape(Home.default().datasets)
        is_enough = shape.train_images * float(section.get("train_fraction", 1)) >= _IMAGES_PER_CLASS * shape.classes
    except (UsageError, ValueError, TypeError):
        return {}  # what is wrong with them is reported when the run begins
    return dict(VALIDATION) if is_enough else {}


def _is_own(values: Mapping[str, Any]) -> bool:
    from tekapctl.data.names import needs_location

    return needs_location(str(values.get("data.name", values.get("data", ""))))


def with_fitted_teacher(spec: Any, fit: Fit, processes: int = 1) -> Any:
    """The spec with a teacher that knows the classes of the user's images, trained first where it does not.

    Args:
        spec: A student's spec.
        fit: How the teacher is trained.
        processes: Processes that train the student.

    Raises:
        UsageError: The teacher has to be trained, and several processes were asked for.
    """
    from tekapctl.distributed.communicator import was_launched
    from tekapctl.experiments import fitted_teacher

    home = Home.default()
    if (processes > 1 or was_launched()) and fitted_teacher.fitting_spec(spec, home, fit) is not None:
        raise UsageError(
            f"{spec.teacher} does not know the classes of your images, and several processes cannot fit it.",
            f"Train it first with `tekapctl train-teacher --model {spec.teacher}` and --nproc.",
        )
    return fitted_teacher.with_fitted_teacher(spec, home, fit, Training)


def with_untrained_teacher(spec: Any, fit: Fit) -> Any:
    """The spec for estimates: a teacher that would be fitted first has random weights; a line says so."""
    from tekapctl.cli import console
    from tekapctl.experiments.fitted_teacher import estimable, fitting_spec

    first = fitting_spec(spec, Home.default(), fit)
    if first is None:
        return spec
    console.say(f"the teacher would be fitted first: {first.model}, {first.epochs} epochs, not counted below")
    return estimable(spec, first)
