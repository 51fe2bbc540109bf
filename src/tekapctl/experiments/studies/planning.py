"""A study as the sweep that carries it out."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tekapctl import models
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrast import Contrast, in_block
from tekapctl.experiments.studies.study import STUDIES, Base, Before, Design, Study, teacher_of
from tekapctl.experiments.sweeps import identity
from tekapctl.experiments.sweeps import plan as sweeps
from tekapctl.experiments.sweeps.plan import Plan, complaint
from tekapctl.spec import StudentSpec, TeacherSpec, load_of_run, merged, parse, to_dict
from tekapctl.store.home import Home
from tekapctl.train import trained


@dataclass(frozen=True)
class Block:
    """The study on one of several settings.

    Attributes:
        label: What sets it apart from the others; empty where it is the only one.
        design: The runs and the differences.
    """

    label: str
    design: Design


@dataclass(frozen=True)
class Planned:
    """A study, ready to be carried out.

    Attributes:
        name: The study's name.
        study: The study with its settings.
        blocks: It on each setting.
        plan: The sweep.
        groups: What the runs of each arm are called in the sweep; arms that are the same experiment share them.
    """

    name: str
    study: Study
    blocks: Sequence[Block]
    plan: Plan
    groups: Mapping[str, str]

    @property
    def design(self) -> Design:
        """What all blocks have in common: contrasts, outcomes and what is measured for them."""
        return self.blocks[0].design

    @property
    def contrasts(self) -> list[list[Contrast]]:
        """Each contrast within each block."""
        return [
            [block.design.contrasts[number].within(block.label) for block in self.blocks]
            for number in range(len(self.design.contrasts))
        ]


def study(name: str, settings: Mapping[str, Any]) -> Study:
    """A study by name, with its settings.

    Raises:
        UsageError: There is no such study, or it has no such settings.
    """
    kind = STUDIES[name]
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        wrong = "; ".join(complaint(entry) for entry in error.errors(include_url=False))
        known = ", ".join(f"{field} {value}" for field, value in kind.defaults().items()) or "none"
        raise UsageError(f"The study {name} does not take that: {wrong}.", f"Its settings: {known}.") from None


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
    """What a study will do.

    Args:
        name: Of the study.
        spec: A student's run with TeKAP; its seed is the first.
        home: Where runs and fetched teachers are.
        settings: The study's own settings.
        seeds: How many seeds each arm has.
        teacher_epochs: Epochs for which the teacher, a network's name, is trained first; None where it is there.
        over: Fields of the spec with values, for each combination of which the study is carried out; its contrasts are
            means over all.
        is_dry: The teacher need not be there.

    Raises:
        UsageError: The study does not fit the spec, or the teacher is not to be had.
    """
    chosen = study(name, settings)
    before: dict[str, Before] = {}
    blocks = []
    for values in itertools.product(*over.values()):
        fields = dict(zip(over, values, strict=True))
        base = _base(_over(spec, fields), home, teacher_epochs, before, is_dry=is_dry)
        design = chosen.design(base)
        for each in design.before:
            before.setdefault(each.label, each)
        blocks.append(Block(", ".join(f"{field.split('.')[-1]} {value}" for field, value in fields.items()), design))
    what = {"study": name, "settings": chosen.model_dump(mode="json"), "over": {k: list(v) for k, v in over.items()}}
    mark = {**what, "spec": to_dict(spec), "seeds": seeds, "teacher_epochs": teacher_epochs}
    digest = hashlib.sha256(json.dumps(mark, sort_keys=True, default=str).encode()).hexdigest()
    numbers = range(spec.seed, spec.seed + seeds)
    _check_before(before.values(), blocks, numbers)
    arms, groups = _apart(blocks)
    table = {
        "name": f"{name}-{digest[:8]}",
        "before": [{"label": each.label, **to_dict(each.spec)} for each in before.values()],
        "grid": {"arm": arms, "seed": list(numbers)},
    }
    return Planned(name, chosen, blocks, sweeps.plan(table, home.datasets, by_network=False), groups)


def _over(spec: StudentSpec, fields: Mapping[str, Any]) -> StudentSpec:
    table = to_dict(spec)
    if "student" in fields and table["optimizer"]["learning_rate"] == models.learning_rate(spec.student):
        del table["optimizer"]["learning_rate"]  # it was the published one of the other student
    found = parse(merged(table, fields))
    assert isinstance(found, StudentSpec)
    return found


def _base(
    spec: StudentSpec, home: Home, teacher_epochs: int | None, before: dict[str, Before], *, is_dry: bool
) -> Base:
    """The setting with its teacher: one that is trained first, or one that is there."""
    if teacher_epochs is not None:
        recipe = teacher_of(spec, spec.teacher, teacher_epochs)
        label = f"teacher {spec.teacher}{f', {len(before) + 1}' if before else ''}"
        known = next((each for each in before.values() if each.spec == recipe), Before(label, recipe))
        before.setdefault(known.label, known)
        return Base(spec.model_copy(update={"teacher": known.label}), recipe)
    try:
        found = [trained.find(home, one, data=spec.data) for one in (spec.teacher, *spec.ensemble)]
    except UsageError as error:
        if is_dry:
            return Base(spec)
        raise UsageError(error.problem, f"{error.remedy} Or train it first with --teacher-epochs.") from None
    run = found[0].run
    trained_as = load_of_run(run.path) if run is not None else None
    # A run that is finished later must not take the place of the teacher that the study has begun with.
    names = [reference.name for reference in found]
    pinned = spec.model_copy(update={"teacher": names[0], "ensemble": tuple(names[1:])})
    return Base(pinned, trained_as if isinstance(trained_as, TeacherSpec) else None)


def _check_before(before: Iterable[Before], blocks: Sequence[Block], seeds: range) -> None:
    """Refuse a network that would have to come before itself.

    Raises:
        UsageError: One that is trained first is one of the study's own runs.
    """
    own = {identity.experiment(arm.spec): arm.label for block in blocks for arm in block.design.arms}
    for each in before:
        label = own.get(identity.experiment(each.spec))
        if label is not None and each.spec.seed in seeds:
            raise UsageError(
                f"The {each.label} would be the run {label!r}, seed {each.spec.seed}, of the study itself.",
                "Give it another network or other epochs, or the study another --seed.",
            )


def _apart(blocks: Sequence[Block]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each experiment once, as a sweep's file has it, and what the runs of each arm are called."""
    tables: dict[str, dict[str, Any]] = {}
    groups: dict[str, str] = {}
    for block in blocks:
        for arm in block.design.arms:
            label = in_block(block.label, arm.label)
            table = {field: value for field, value in to_dict(arm.spec).items() if field != "seed"}
            known = tables.setdefault(identity.experiment(arm.spec), {"label": label, **table})
            groups[label] = known["label"]
    return list(tables.values()), groups
