"""What a user most likely meant by a field that does not exist."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from tekapctl.settings import Settings
from tekapctl.spec.run import CHOICES


def nearest_field(path: str, model: type[Settings], values: Mapping[str, Any]) -> str | None:
    """The nearest field path; the same field of another section counts too. None if nothing is near.

    Args:
        path: The unknown field, as `optimizer.momentun`.
        model: The spec.
        values: What was given; its dataset, method, optimizer and schedule have fields of their own.
    """
    known = list(_fields(model, values))
    elsewhere = [each for each in known if each.rpartition(".")[2] == path.rpartition(".")[2]]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75) or elsewhere
    return near[0] if near else None


def _fields(model: type[Settings], values: Mapping[str, Any]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        section: Any = type(field.get_default(call_default_factory=True, validated_data={}))
        if name in CHOICES:
            registry, default = CHOICES[name]
            given = values.get(name)
            chosen = given.get("name", default) if isinstance(given, Mapping) else given
            if chosen in registry.names():
                section = registry[chosen]
        if issubclass(section, Settings):
            yield from (f"{name}.{inner}" for inner in _fields(section, {}))


def augmentation_name(values: Mapping[str, Any], place: int) -> str:
    """The name of one of a spec's augmentations, as it was given; "" where it has none."""
    data = values.get("data")
    given = data.get("augment", ()) if isinstance(data, Mapping) else ()
    one = given[place] if isinstance(given, list | tuple) and place < len(given) else ""
    name = one.get("name", "") if isinstance(one, Mapping) else one
    return name if isinstance(name, str) else ""
