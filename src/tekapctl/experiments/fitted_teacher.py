"""A teacher for the user's own images: a library's pretrained network, first trained on their classes."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

from tekapctl.commands.cost import estimate
from tekapctl.data.image_files import ImageFilesSpec
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Trial
from tekapctl.experiments.sweeps.state import Ledger, Standing
from tekapctl.experiments.sweeps.trial import run_trial
from tekapctl.models import external
from tekapctl.spec import StudentSpec, TeacherSpec, dumps, load_of_run, parse, to_dict
from tekapctl.spec.recipes import PROBE, recipe
from tekapctl.store.home import Home
from tekapctl.store.run import Run
from tekapctl.train import references
from tekapctl.train.callbacks import Callback, StoppedError

logger = logging.getLogger(__name__)

Fit = Literal["finetune", "probe", "none"]
"""How a pretrained teacher learns the classes: all of its weights, its classifier alone, or not at all."""

_SHARED = (
    *("data", "batch_size", "patience", "seed", "data_seed", "name"),
    *("device", "precision", "compile", "graph", "checkpoint_minutes", "track"),
)
_FOLDER = "fitted-teachers"


def fitting_spec(spec: StudentSpec, home: Home, fit: Fit) -> TeacherSpec | None:
    """The spec of the run that teaches a library's network the classes of the user's images.

    Args:
        spec: The student's spec.
        home: Where runs are.
        fit: How the teacher is trained.

    Returns:
        None where no such run is needed: the teacher is not a library's network, it has been trained in this way on
        the same images, it has as many classes as they have, the method reads features alone, or the images are not the
        user's.
    """
    is_library = spec.teacher.partition(":")[0] in external.LIBRARIES
    if fit == "none" or not is_library or spec.ensemble:
        return None
    if not isinstance(spec.data, ImageFilesSpec) or not spec.data.needs_location:
        return None
    weights = external.pretrained_weights(spec.teacher) if spec.requires.classes else None
    if weights is None or weights.classes == spec.data.shape(home.datasets).classes:
        return None
    reference = references.find(home, spec.teacher, data=spec.data, kind="teacher")
    if reference.run is not None and _was_trained_for(spec, load_of_run(reference.run.path), fit):
        return None
    pinned = spec.data.labelled.with_fingerprint(home.datasets)
    data = pinned.model_copy(update={"size": spec.data.size or weights.size})
    values = to_dict(spec.model_copy(update={"data": data}))
    settings = {**PROBE, "linear_probe": True} if fit == "probe" else recipe("finetune").table
    made = parse(
        {
            **settings,
            **{name: value for name, value in values.items() if name in _SHARED},
            "kind": "teacher",
            "model": spec.teacher,
            "model_args": _with_weights(spec.teacher_args),
        }
    )
    assert isinstance(made, TeacherSpec)
    return made


def _was_trained_for(spec: StudentSpec, teacher: TeacherSpec | StudentSpec, fit: Fit) -> bool:
    """Whether a teacher was trained on the student's training images alone, and as it would be now."""
    ours, theirs = spec.data, teacher.data
    return (
        isinstance(teacher, TeacherSpec)
        and teacher.linear_probe == (fit == "probe")
        and not ours.is_subset
        and not theirs.is_subset
        and ours.val_fraction == theirs.val_fraction
        and _with_weights(spec.teacher_args) == _with_weights(teacher.model_args)
    )


def _with_weights(arguments: external.Arguments) -> dict[str, external.Argument]:
    """A network's arguments, with pretrained weights where nothing is said about them."""
    return {**arguments} if "weights" in arguments else {"pretrained": True, **arguments}


def estimable(spec: StudentSpec, fitting: TeacherSpec) -> StudentSpec:
    """The student's spec with the teacher's image size and random weights, for what is measured before it is fitted."""
    assert isinstance(fitting.data, ImageFilesSpec)
    data = spec.data.model_copy(update={"size": fitting.data.size})
    arguments = {**external.without_weights(spec.teacher_args), "pretrained": False}
    return spec.model_copy(update={"data": data, "teacher_args": arguments})


def with_fitted_teacher(
    spec: StudentSpec, home: Home, fit: Fit, show: Callable[[str], AbstractContextManager[Callback]]
) -> StudentSpec:
    """The spec with a teacher that knows the classes; it is trained first where it does not.

    A teacher that was trained before is used again, and an interrupted one is resumed.

    Args:
        spec: The student's spec.
        home: Where runs are.
        fit: How the teacher is trained.
        show: Makes the callback of its run, given its name.

    Raises:
        UsageError: The student's run is not valid; nothing was trained.
        StoppedError: The teacher's run was interrupted; it resumes when this is called again.
        TekapctlError: It failed.
    """
    found = fitting_spec(spec, home, fit)
    if found is None:
        return spec
    estimate(estimable(spec, found), home)  # raises what is wrong with the student
    trial = Trial(f"teacher {spec.teacher}", "teacher", found)
    standing = Ledger(home).find(trial)
    if standing.state != "finished":
        how = "its classifier is trained on them" if found.linear_probe else "it is fine-tuned on them"
        logger.info(
            f"teacher: {spec.teacher} does not know the classes of your images: first {how} "
            f"({found.epochs} epochs at most)"
        )
        _follow_folder(standing, found, home)
    try:
        with show(f"teacher {spec.teacher}") as callback:
            run = run_trial(trial, SweepFolder(home, _FOLDER), callback, retry=True)
    except StoppedError as error:
        error.remedy = "Repeat the command to continue with the teacher, and then with the student."
        raise
    return spec.model_copy(update={"teacher": run, "teacher_args": {}})


def _follow_folder(standing: Standing, found: TeacherSpec, home: Home) -> None:
    """Let an unfinished run find its images where they are now: their fingerprint is the same."""
    if standing.run is None or standing.state == "running":
        return
    run = Run(home.runs / standing.run)
    spec = load_of_run(run.path)
    if spec.data.folder != found.data.folder:
        data = spec.data.model_copy(update={"folder": found.data.folder})
        run.write_text("spec.toml", dumps(spec.model_copy(update={"data": data})))
