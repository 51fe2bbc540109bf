"""Specs as TOML and JSON: parsing, errors with suggestions, reading, writing, merging, and their JSON schema."""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    Field,
    TypeAdapter,
    ValidationError,
)

from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.errors import UsageError
from tekapctl.settings import Settings
from tekapctl.spec.run import CHOICES, RunSpec, TeacherSpec
from tekapctl.spec.student import StudentSpec

_DEEPEST = 20
"""Dots in the path of a field, at most."""


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a table into another, field by field; dotted names are paths.

    A different dataset, method, optimizer or schedule starts from its own defaults.

    Raises:
        UsageError: A path leads through a field that has no fields.
    """
    result = dict(table)
    for path, value in over.items():
        if path.count(".") > _DEEPEST:
            raise UsageError(f"The field {path[:40]}... is nested too deeply.", "`tekapctl schema` lists fields.")
        first, _, rest = path.partition(".")
        if rest:
            value = {rest: value}
        below = result.get(first, {})
        if first in CHOICES:
            value, below = ({"name": one} if isinstance(one, str) else one for one in (value, below))
        if not isinstance(value, Mapping):
            result[first] = value
            continue
        if not isinstance(below, Mapping):
            raise UsageError(f"{path} is no field: {first} is {below!r}.", "`tekapctl schema` lists fields.")
        is_another = first in CHOICES and "name" in value and value["name"] != below.get("name", CHOICES[first][1])
        result[first] = merged({} if is_another else below, value)
    return result


AnySpec = Annotated[TeacherSpec | StudentSpec, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[TeacherSpec | StudentSpec] = TypeAdapter(AnySpec)


def parse(values: Mapping[str, Any]) -> TeacherSpec | StudentSpec:
    """The spec that a mapping describes; a mapping without a `kind` describes a student's run.

    Raises:
        UsageError: A field is unknown, missing or out of range; the message has each field's path.
    """
    try:
        return _ADAPTER.validate_python({"kind": "student", **values})
    except ValidationError as error:
        raise UsageError(f"The spec is not valid: {'; '.join(_complaints(error, values))}.", _REMEDY) from None
    except RecursionError:
        raise UsageError("The spec is nested too deeply.", _REMEDY) from None


_REMEDY = "`tekapctl schema` prints what a spec may hold."


def _complaints(error: ValidationError, values: Mapping[str, Any]) -> list[str]:
    return [_complaint(entry, values) for entry in error.errors(include_url=False)]


def _complaint(entry: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """What is wrong with a field."""
    # The first part says which kind of spec was meant, if any.
    kind, place = next(iter(entry["loc"]), None), list(entry["loc"][1:])
    path = ".".join(map(str, place))
    what = entry["msg"].removeprefix("Value error, ").rstrip(".?")
    if place[:2] == ["data", "augment"] and len(place) > 2:
        name = augmentation_name(values, place[2])
        if entry["type"] == "extra_forbidden":
            known = [field for field in AUGMENTATIONS[name].model_fields if field != "name"]
            return f"`data.augment`: {name} has no setting {place[-1]} (it has {', '.join(known) or 'none'})"
        if len(place) == 3:
            return f"`data.augment`: {what}"
        return f"`data.augment`: {name}'s {place[-1]} {_expectation(what, entry)}"
    if entry["type"] == "extra_forbidden":
        near = nearest_field(path, TeacherSpec if kind == "teacher" else StudentSpec, values)
        return f"`{path}`: unknown field (did you mean {near}?)" if near else f"`{path}`: unknown field"
    if not path or (path in CHOICES and entry["type"] == "value_error"):
        return what
    return f"`{path}` {_expectation(what, entry)}" if what.startswith(_SHOULD) else f"`{path}`: {what}"


_SHOULD = ("Input should ", "String should ")


def _expectation(what: str, entry: Mapping[str, Any]) -> str:
    """Pydantic's sentence on a value, with the value."""
    wanted = what.partition(", unable")[0].removeprefix(_SHOULD[0]).removeprefix(_SHOULD[1])
    given = entry["input"]
    return f"must {wanted}, not {given!r}" if isinstance(given, str | int | float) else f"must {wanted}"


def to_dict(spec: RunSpec) -> dict[str, Any]:
    """The spec as plain values, without the fields that are none."""
    values: dict[str, Any] = spec.model_dump(mode="json", exclude_none=True)
    return values


def loads(text: str, kind: Literal["toml", "json"] = "toml") -> TeacherSpec | StudentSpec:
    """The spec in a TOML or JSON text.

    Raises:
        UsageError: The text does not parse, or its spec is not valid.
    """
    return parse(read_table(text, kind))


def dumps(spec: RunSpec, kind: Literal["toml", "json"] = "toml") -> str:
    """The spec as TOML or JSON; `loads` gives it back without loss."""
    values = to_dict(spec)
    return tomli_w.dumps(values) if kind == "toml" else json.dumps(values, indent=2) + "\n"


def read_table(text: str, kind: Literal["toml", "json"] = "toml") -> dict[str, Any]:
    """The table in a TOML or JSON text, not yet checked against the spec.

    Raises:
        UsageError: The text does not parse, or is no table.
    """
    try:
        table = tomllib.loads(text) if kind == "toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UsageError(f"The spec is not {kind.upper()}: {problem}.", "Correct the file.") from None
    if not isinstance(table, dict):
        raise UsageError(f"The spec's {kind.upper()} is no table.", "Write fields with their values.")
    return table


def read_file(path: Path) -> dict[str, Any]:
    """The table in a spec file, not yet checked: JSON if its name ends so, else TOML.

    Raises:
        UsageError: The file cannot be read, is too large, or does not parse.
    """
    try:
        if path.stat().st_size > 1_000_000:
            raise UsageError(f"The spec file {path} is larger than a megabyte.", "Name a spec file.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The spec file {path} cannot be read: {error}.", "Name a TOML or JSON file.") from None
    return read_table(text, "json" if path.suffix == ".json" else "toml")


def load(path: Path | str) -> TeacherSpec | StudentSpec:
    """The spec in a TOML or JSON file.

    Raises:
        UsageError: The file cannot be read or its spec is not valid.
    """
    return parse(read_file(Path(path)))


def load_of_run(folder: Path) -> TeacherSpec | StudentSpec:
    """The spec in a run's folder.

    Raises:
        UsageError: It cannot be read, is not valid, or is not a run's, which says of which kind it is.
    """
    table = read_file(folder / "spec.toml")
    if "kind" not in table:
        raise UsageError(f"The spec of the run {folder.name} is damaged: it has no kind.", "Leave the run out.")
    return parse(table)


def dump(spec: RunSpec, path: Path | str) -> None:
    """Write the spec to a TOML file, or to a JSON file if its name ends so."""
    path = Path(path)
    path.write_text(dumps(spec, "json" if path.suffix == ".json" else "toml"), encoding="utf-8")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of run specs."""
    schema = _ADAPTER.json_schema()
    definitions = schema.setdefault("$defs", {})
    for field, (registry, _) in CHOICES.items():
        base = f"{field.capitalize()}Spec"
        chosen = []
        for name in registry:
            section: dict[str, Any] = registry[name].model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(section.pop("$defs", {}))
            definitions[section["title"]] = section
            chosen.append({"$ref": f"#/$defs/{section['title']}"})
        definitions[base] = {"anyOf": chosen}
    return schema


def nearest_field(path: str, model: type[Settings], values: Mapping[str, Any]) -> str | None:
    """The nearest field path; the same field of another section counts too. None if nothing is near.

    The dataset, method, optimizer and schedule that were given have fields of their own.
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
