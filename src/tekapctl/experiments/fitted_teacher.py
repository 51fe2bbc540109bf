"""A teacher for the user's own images: a library's pretrained network, first trained on their classes."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

from tekapctl.data.datasets.folder import ClassFolders
from tekapctl.experiments.sweeps.folder import SweepFolder
from tekapctl.experiments.sweeps.plan import Trial
from tekapctl.experiments.sweeps.trial import run_trial
from tekapctl.models import external
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.spec.recipes import recipe
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.callbacks import Callback

logger = logging.getLogger(__name__)

Fit = Literal["finetune", "probe", "none"]
"""How a pretrained teacher learns the classes: all of its weights, its classifier alone, or not at all."""

_PROBE = {
    "epochs": 20,
    "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0},
    "schedule": {"name": "cosine"},
    "linear_probe": True,
}
_SHARED = (
    *("data", "batch_size", "patience", "seed", "name"),
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
        None where no such run is needed: the teacher is not a library's network, it has been trained on these images,
        it has as many classes as they have, the method reads features alone, or the images are not the user's.
    """
    is_library = spec.teacher.partition(":")[0] in external.LIBRARIES
    if fit == "none" or not is_library or spec.ensemble or not isinstance(spec.data, ClassFolders):
        return None
    if not spec.requires.classes or not trained.find(home, spec.teacher, data=spec.data, kind="teacher").is_library:
        return None
    weights = external.pretrained_weights(spec.teacher)
    if weights is None or weights.classes == spec.data.shape(home.datasets).classes:
        return None
    pinned = spec.data.labelled.with_fingerprint(home.datasets)
    data = pinned.model_copy(update={"size": spec.data.size or weights.size})
    values = to_dict(spec.model_copy(update={"data": data}))
    settings = _PROBE if fit == "probe" else recipe("finetune").table
    made = parse(
        {
            **settings,
            **{name: value for name, value in values.items() if name in _SHARED},
            "kind": "teacher",
            "model": spec.teacher,
            "model_args": {"pretrained": True, **spec.teacher_args},
        }
    )
    assert isinstance(made, TeacherSpec)
    return made


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
        StoppedError: The teacher's run was interrupted; it resumes when this is called again.
        TekapctlError: It failed.
    """
    found = fitting_spec(spec, home, fit)
    if found is None:
        return spec
    how = "its classifier is trained on them" if found.linear_probe else "it is fine-tuned on them"
    logger.info(f"teacher: {spec.teacher} does not know the classes of your images: first {how}")
    trial = Trial(f"teacher {spec.teacher}", "teacher", found)
    with show(f"teacher {spec.teacher}") as callback:
        run = run_trial(trial, SweepFolder(home, _FOLDER), callback, retry=True)
    return spec.model_copy(update={"teacher": run, "teacher_args": {}})
