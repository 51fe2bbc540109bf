"""The ways of training that most studies compare: alone, plain, TeKAP, and TeKAP with all but its noise."""

from collections.abc import Mapping
from typing import Any

from tekapctl.distill.tekap import LEVELS
from tekapctl.errors import UsageError
from tekapctl.experiments.studies.contrast import Contrast, doublings, mean_of, trend
from tekapctl.experiments.studies.study import Arm, Design, Place
from tekapctl.spec import StudentSpec, TeacherSpec, parse, to_dict
from tekapctl.spec.effects import EFFECTS, OF_CRD, keep


def relevant(spec: StudentSpec) -> StudentSpec:
    """A spec without the level of TeKAP that meets none of its losses.

    Raises:
        UsageError: It has no augmented teachers.
    """
    unmet = {level: level not in spec.levels for level in LEVELS}
    table = to_dict(spec)["tekap"]
    found = changed(
        spec,
        tekap={level: {**table[level], **({"teachers": 0} if is_unmet else {})} for level, is_unmet in unmet.items()},
    )
    if not (found.tekap.logit.teachers or found.tekap.feature.teachers):
        raise UsageError("The study's runs would have no augmented teachers.", "Give --tekap, and leave out --angular.")
    return found


def effects_of(spec: StudentSpec) -> list[str]:
    """The effects that TeKAP has on a spec's losses."""
    on_crd = spec.method.name == "crd" and bool(spec.beta) and bool(spec.tekap.feature.teachers)
    return [effect for effect in EFFECTS if on_crd or effect not in OF_CRD]


def plain(spec: StudentSpec) -> StudentSpec:
    """The method without TeKAP."""
    return spec.model_copy(update={"tekap": spec.tekap.without()})


def noiseless(spec: StudentSpec) -> StudentSpec:
    """TeKAP with all of its effects but the noise: what its noise must beat to be worth anything."""
    return keep(spec, [effect for effect in effects_of(spec) if effect != "noise"])


def alone(spec: StudentSpec) -> TeacherSpec:
    """The student's network trained without a teacher."""
    shared = {field: value for field, value in to_dict(spec).items() if field in TeacherSpec.model_fields}
    found = parse({**shared, "kind": "teacher", "model": spec.student})
    assert isinstance(found, TeacherSpec)
    return found


def changed(spec: StudentSpec, **fields: Any) -> StudentSpec:
    """A spec with other values of some fields, checked.

    Raises:
        UsageError: The spec is not valid then.
    """
    found = parse({**to_dict(spec), **fields})
    assert isinstance(found, StudentSpec)
    return found


def name_of(spec: StudentSpec) -> str:
    """What a spec's way of distilling is called without TeKAP, as `KD`, `CRD` or `CRD + KD`."""
    if spec.method.name == "kd":
        return "KD"
    name = spec.method.name.upper() if len(spec.method.name) < 5 else spec.method.name
    return f"{name} + KD" if spec.alpha else name


def the_usual(spec: StudentSpec) -> tuple[list[Arm], tuple[str, str, str, str]]:
    """The method, TeKAP, TeKAP without noise, and the student alone; and what they are called.

    Raises:
        UsageError: The spec has no augmented teachers.
    """
    spec = relevant(spec)
    name = name_of(spec)
    labels = (name, f"{name} + TeKAP", f"{name} + TeKAP without noise", "alone")
    specs: tuple[TeacherSpec | StudentSpec, ...] = (plain(spec), spec, noiseless(spec), alone(spec))
    return [Arm(label, made) for label, made in zip(labels, specs, strict=True)], labels


def design_along(specs: Mapping[float | int, StudentSpec], what: str, axis: str) -> Design:
    """The student alone, the method, TeKAP, and TeKAP without noise, on each of several training sets.

    Args:
        specs: The student's run with TeKAP on each, by the setting, which is above 0.
        what: The setting in words, before its value.
        axis: What the chart's axis is called.
    """
    arms = []
    labels: dict[str, list[str]] = {}
    for at, spec in specs.items():
        for way in the_usual(spec)[0]:
            label = f"{way.label}, {what} {at:g}"
            labels.setdefault(way.label, []).append(label)
            arms.append(Arm(label, way.spec, Place(way.label, at)))
    first, tekap, without, _ = labels
    places = doublings(list(specs))
    contrasts: list[Contrast] = [
        mean_of(f"{tekap} less {first}", list(zip(labels[tekap], labels[first], strict=True))),
        mean_of(f"{tekap} less without noise", list(zip(labels[tekap], labels[without], strict=True))),
        mean_of(f"{first} less alone", list(zip(labels[first], labels["alone"], strict=True))),
    ]
    if len(specs) > 1:
        contrasts.append(trend(f"{tekap} less {first}, its trend", labels[tekap], places, "doubling", labels[first]))
    return Design(arms, contrasts, axis=axis)
