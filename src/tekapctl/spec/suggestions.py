"""The field that a user most likely meant by one that does not exist."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from tekapctl.data.spec import DATASETS
from tekapctl.distillation.methods import METHODS
from tekapctl.registry import Registry
from tekapctl.settings import Settings


def nearest_field(path: str, model: type[Settings], values: Mapping[str, Any]) -> str | None:
    """The nearest field path; the same field of another section counts too. None if nothing is near.

    Args:
        path: The unknown field, as `optimizer.momentun`.
        model: The spec.
        values: What was given; its data set and method have fields of their own.
    """
    known = list(_fields(model, values))
    elsewhere = [each for each in known if each.rpartition(".")[2] == path.rpartition(".")[2]]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75) or elsewhere
    return near[0] if near else None


def _fields(model: type[Settings], values: Mapping[str, Any]) -> Iterator[str]:
    registries: dict[str, Registry[Any]] = {"data": DATASETS, "method": METHODS}
    for name, field in model.model_fields.items():
        yield name
        section: Any = type(field.get_default(call_default_factory=True, validated_data={}))
        if name in registries:
            given = values.get(name)
            chosen = given.get("name") if isinstance(given, Mapping) else given
            if chosen in registries[name].names():
                section = registries[name][chosen]
        if issubclass(section, Settings):
            yield from (f"{name}.{inner}" for inner in _fields(section, {}))
