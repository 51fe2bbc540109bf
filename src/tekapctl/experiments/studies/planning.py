"""Turn a study into a sweep."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tekapctl import models
from tekapctl.errors import UsageError
from tekapctl.experiments import identity
from tekapctl.experiments.studies.contrasts import Contrast, in_block
from tekapctl.experiments.studies.study import STUDIES, Arm, Design, Study, StudySetup, teacher_of
from tekapctl.experiments.sweeps import plan as sweeps
from tekapctl.experiments.sweeps.plan import Plan, complaint
from tekapctl.spec import StudentSpec, TeacherSpec, load_of_run, merged, parse, to_dict
from tekapctl.store.home import Home
from tekapctl.train import references


@dataclass(frozen=True)
class Planned:
    """A study that is ready to run as a sweep.

    `blocks` has its design for each combination of varied fields, by their values; "" if nothing is varied. `groups`
    has the sweep's group of each arm; arms that are the same experiment share a group.
    """

    name: str
    study: Study
    blocks: Mapping[str, Design]
    plan: Plan
    groups: Mapping[str, str]

    @property
    def design(self) -> Design:
        """The first block's design: all blocks share contrasts, outcomes and measurements."""
        return next(iter(self.blocks.values()))

    @property
    def contrasts(self) -> list[list[Contrast]]:
        """Each contrast, within every block."""
        within = [[each.within(label) for each in design.contrasts] for label, design in self.blocks.items()]
        return [list(each) for each in zip(*within, strict=True)]


def study(name: str, settings: Mapping[str, Any]) -> Study:
    """Create a study by name.

    Raises:
        UsageError: There is no such study, or its settings are not valid.
    """
    kind = STUDIES[name]
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        wrong = "; ".join(complaint(entry) for entry in error.errors(include_url=False))
        known = ", ".join(f"{field} {value}" for field, value in kind.defaults().items()) or "none"
        raise UsageError(f"Invalid settings of the study {name}: {wrong}.", f"Its settings are: {known}.") from None


def plan(
    name: str,
    spec: StudentSpec,
    home: Home,
    *,
    settings: Mapping[str, Any] = {},
    seeds: int = 5,
    teacher_epochs: int | None = None,
    over: Mapping[str, Sequence[Any]] = {},
    is_dry: bool = False,
) -> Planned:
    """Plan a study.

    Args:
        name: The study's name.
        spec: A student's run with TeKAP; its seed is the first seed.
        home: The home folder.
        settings: The study's own settings.
        seeds: Seeds per arm.
        teacher_epochs: Train the teacher, named by its network, for this many epochs first; None if it exists.
        over: Spec fields with lists of values; the study runs for each combination, and contrasts pool all of them.
        is_dry: Accept a missing teacher.

    Raises:
        UsageError: The study does not fit the spec, or the teacher does not exist.
    """
    chosen = study(name, settings)
    prerequisites: dict[str, Arm] = {}
    blocks: dict[str, Design] = {}
    for values in itertools.product(*over.values()):
        fields = dict(zip(over, values, strict=True))
        setup = _setup(_over(spec, fields), home, teacher_epochs, prerequisites, is_dry=is_dry)
        design = chosen.design(setup)
        for each in design.prerequisites:
            prerequisites.setdefault(each.label, each)
        blocks[", ".join(f"{field.split('.')[-1]} {value}" for field, value in fields.items())] = design
    identifying = {
        "study": name,
        "settings": chosen.model_dump(mode="json"),
        "over": over,
        "spec": to_dict(spec),
        "seeds": seeds,
        "teacher_epochs": teacher_epochs,
    }
    digest = hashlib.sha256(json.dumps(identifying, sort_keys=True, default=str).encode()).hexdigest()
    numbers = range(spec.seed, spec.seed + seeds)
    _check_prerequisites(prerequisites.values(), blocks.values(), numbers)
    arms, groups = _distinct_arms(blocks)
    table = {
        "name": f"{name}-{digest[:8]}",
        "before": [{"label": each.label, **to_dict(each.spec)} for each in prerequisites.values()],
        "grid": {"arm": arms, "seed": list(numbers)},
    }
    return Planned(name, chosen, blocks, sweeps.plan(table, home.datasets, by_network=False), groups)


def _over(spec: StudentSpec, fields: Mapping[str, Any]) -> StudentSpec:
    table = to_dict(spec)
    if "student" in fields and table["optimizer"]["learning_rate"] == models.learning_rate(spec.student):
        del table["optimizer"]["learning_rate"]  # it was the published rate of the other student
    found = parse(merged(table, fields))
    assert isinstance(found, StudentSpec)
    return found


def _setup(
    spec: StudentSpec, home: Home, teacher_epochs: int | None, prerequisites: dict[str, Arm], *, is_dry: bool
) -> StudySetup:
    """The spec with its teacher: one that is trained first, or an existing one."""
    if teacher_epochs is not None:
        recipe = teacher_of(spec, spec.teacher, teacher_epochs)
        label = f"teacher {spec.teacher}{f', {len(prerequisites) + 1}' if prerequisites else ''}"
        known = next((each for each in prerequisites.values() if each.spec == recipe), Arm(label, recipe))
        prerequisites.setdefault(known.label, known)
        return StudySetup(spec.model_copy(update={"teacher": known.label}), recipe)
    try:
        found = [references.find(home, one, data=spec.data, kind="teacher") for one in (spec.teacher, *spec.ensemble)]
    except UsageError as error:
        if is_dry:
            return StudySetup(spec)
        raise UsageError(error.problem, f"{error.remedy} Or train it first with `teacher_epochs`.") from None
    run = found[0].run
    trained_as = load_of_run(run.path) if run is not None else None
    # Pinned: a teacher that finishes later must not replace this one half-way through the study.
    names = [reference.name for reference in found]
    pinned = spec.model_copy(update={"teacher": names[0], "ensemble": tuple(names[1:])})
    return StudySetup(pinned, trained_as if isinstance(trained_as, TeacherSpec) else None)


def _check_prerequisites(prerequisites: Iterable[Arm], designs: Iterable[Design], seeds: range) -> None:
    """Check that no prerequisite is itself an arm of the study."""
    own = {identity.experiment(arm.spec): arm.label for design in designs for arm in design.arms}
    for each in prerequisites:
        label = own.get(identity.experiment(each.spec))
        if label is not None and each.spec.seed in seeds:
            raise UsageError(
                f"The {each.label} would be the same run as {label!r}, seed {each.spec.seed}, of the study.",
                "Use another network or number of epochs for it, or another first seed for the study.",
            )


def _distinct_arms(blocks: Mapping[str, Design]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each experiment once, as a table of a sweep file, and the sweep group of each arm."""
    tables: dict[str, dict[str, Any]] = {}
    groups: dict[str, str] = {}
    for block, design in blocks.items():
        for arm in design.arms:
            label = in_block(block, arm.label)
            table = {field: value for field, value in to_dict(arm.spec).items() if field != "seed"}
            known = tables.setdefault(identity.experiment(arm.spec), {"label": label, **table})
            groups[label] = known["label"]
    return list(tables.values()), groups
