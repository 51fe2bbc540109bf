"""The identity of an experiment: the same experiment has the same digest, however its spec is written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tekapctl.data.augment.augmentation import AUGMENTATIONS
from tekapctl.data.in_memory import InMemorySpec
from tekapctl.spec import RunSpec, StudentSpec, parse, to_dict

NOT_IN_IDENTITY = (
    *("seed", "name", "device", "compile", "graph", "checkpoint_minutes", "cache_teacher", "diagnose", "track"),
    *("data.folder", "data.unlabelled", "data.stream", "data.workers", "data.cache", "continues.run"),
)
"""Fields in which two runs of one experiment may differ."""


def identifying(spec: RunSpec) -> dict[str, Any]:
    """The fields of a spec that identify its experiment, as a nested table without the seed.

    Folders of images are identified by their fingerprints, wherever they are; without a fingerprint by their paths,
    except those of published datasets.
    """
    table = to_dict(spec)
    for path in NOT_IN_IDENTITY:
        if path == "data.folder" and spec.data.fingerprint is None and not isinstance(spec.data, InMemorySpec):
            continue
        if path == "data.unlabelled" and spec.data.unlabelled_fingerprint is None:
            continue
        *parents, last = path.split(".")
        inner: Any = table
        for part in parents:
            inner = inner.get(part, {})
        inner.pop(last, None)
    return table


def in_words(value: object) -> str:
    """The value of a field as part of a label; parts with a name, such as augmentations, without their defaults."""
    if isinstance(value, Mapping):
        name = str(value.get("name", ""))
        defaults = AUGMENTATIONS[name](name=name).model_dump(mode="json") if name in AUGMENTATIONS else {}
        more = [f"{key}={in_words(one)}" for key, one in value.items() if key != "name" and defaults.get(key) != one]
        return f"{name}({', '.join(more)})" if more else name
    if isinstance(value, list | tuple):
        return " + ".join(map(in_words, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


Identity = dict[str, Any]
"""Plain values: `spec`, and in `needs` the identities of the trials that are its teachers."""


def identity(spec: RunSpec, requires: Mapping[str, Identity]) -> Identity:
    """The identity of a trial, without settings that do not change the experiment, such as its device or name.

    `requires` has the identities of the trials that are its teachers, by their names in the spec.
    """
    table = {**identifying(spec), "seed": spec.seed}
    # The labels of teachers in a file are not part of the experiment.
    places = {name: f"@{number}" for number, name in enumerate(requires)}
    if "teacher" in table:
        table["teacher"] = places.get(table["teacher"], table["teacher"])
        table["ensemble"] = [places.get(name, name) for name in table["ensemble"]]
    return {"spec": table, "needs": list(requires.values())}


def experiment(spec: RunSpec) -> str:
    """A digest that is equal for specs that differ only in their seed or in settings that nothing reads."""
    return group(identity(spec.canonical if isinstance(spec, StudentSpec) else spec, {}))


def digest(of: Identity) -> str:
    """The SHA-256 of an identity, in hexadecimal."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def group(of: Identity) -> str:
    """A digest that is equal for trials that differ only in their seed."""
    return digest({**of, "spec": {field: value for field, value in of["spec"].items() if field != "seed"}})


def renewed(kept: Identity) -> Identity:
    """An identity of an older version as this version writes it: new fields get their defaults.

    Raises:
        UsageError: Its spec is no longer valid.
        KeyError: It is not an identity.
    """
    requires = {f"@{number}": renewed(need) for number, need in enumerate(kept["needs"])}
    return identity(parse(kept["spec"]), requires)
