"""How a run compares with a published experiment: the settings it takes from it, and those that differ."""

from collections.abc import Collection, Mapping
from typing import Any

from tekapctl.experiments.presets.preset import Preset
from tekapctl.models import is_known
from tekapctl.settings import flat_items
from tekapctl.spec import StudentSpec, parse, to_dict

_NOT_PUBLISHED = {
    *(
        "kind",
        "name",
        "seed",
        "data_seed",
        "data.folder",
        "device",
        "precision",
        "compile",
        "graph",
        "checkpoint_minutes",
    ),
    *("track", "cache_teacher", "diagnose", "teacher_digest", "teacher_model", "teacher_args", "model_args"),
    "ensemble_digests",
}
"""Fields that do not make another experiment."""


def taken(preset: Preset, spec: StudentSpec, given: Collection[str]) -> dict[str, Any]:
    """The published settings of a pair that a run uses and that were not given by hand.

    `given` has the paths of the fields that were given by hand.
    """
    ours = dict(flat_items(to_dict(spec)))
    return {
        path: value
        for path, value in flat_items(preset.settings)
        if path != "method.name" and path in ours and _same(ours[path], value)
        if not _is_given(path, given) and _is_used(path, spec)
    }


def changed(preset: Preset, spec: StudentSpec) -> dict[str, Any]:
    """The fields in which a run differs from a published experiment, whatever its seed, device and teacher's file."""
    published = parse(preset.table)
    assert isinstance(published, StudentSpec)
    ours, theirs = (dict(flat_items(to_dict(each.canonical))) for each in (spec, published))
    found = {}
    for path in dict.fromkeys([*ours, *theirs]):
        is_ours = path == "teacher" and not is_known(spec.teacher)
        if path not in _NOT_PUBLISHED and not is_ours and not _same(ours.get(path), theirs.get(path)):
            found[path] = ours.get(path)
    for choice in ("data", "method"):
        if f"{choice}.name" in found:  # whose own settings then say nothing more
            name = found[f"{choice}.name"]
            found = {path: value for path, value in found.items() if not path.startswith(f"{choice}.")}
            found[choice] = name
    return found


def by_hand(differences: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Those of the differences that were given by hand, and the milestones that follow from other epochs."""
    return {path: value for path, value in differences.items() if _is_given(path, given) or path == _MILESTONES}


def listed(values: Mapping[str, Any]) -> str:
    """Fields and values for people: `epochs=10, optimizer.learning_rate=0.1`."""
    return ", ".join(f"{path}={_shown(value)}" for path, value in values.items())


_MILESTONES = "schedule.milestones"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_shown(each) for each in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _same(one: Any, other: Any) -> bool:
    return bool((list(one) if isinstance(one, tuple) else one) == (list(other) if isinstance(other, tuple) else other))


def _is_given(path: str, given: Collection[str]) -> bool:
    """Whether a field, a table that holds it or a field within it was given."""
    return any(f"{path}.".startswith(f"{each}.") or each.startswith(f"{path}.") for each in given)


def _is_used(path: str, spec: StudentSpec) -> bool:
    if path.startswith("method."):
        return bool(spec.beta)
    return bool(spec.alpha) if path == "temperature" else True
