"""What makes a trial the trial that it is: the same experiment has the same digest, however its file is written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tekapctl.experiments.comparison.groups import identifying
from tekapctl.spec import RunSpec, StudentSpec, parse

Identity = dict[str, Any]
"""Plain values: `spec`, and as `requires` the identities of the trials whose networks teach it."""


def identity(spec: RunSpec, requires: Mapping[str, Identity]) -> Identity:
    """What a trial is, without what makes no other experiment of it, such as its device or its name.

    Args:
        spec: Its spec.
        requires: Identities of other trials, by the names under which the spec has them as teachers.
    """
    table = {**identifying(spec), "seed": spec.seed}
    # What a file calls its teachers is its own affair.
    places = {name: f"@{number}" for number, name in enumerate(requires)}
    if "teacher" in table:
        table["teacher"] = places.get(table["teacher"], table["teacher"])
        table["ensemble"] = [places.get(name, name) for name in table["ensemble"]]
    return {"spec": table, "needs": list(requires.values())}


def experiment(spec: RunSpec) -> str:
    """The same for all specs that differ in their seed alone, or in what nothing reads."""
    return group(identity(spec.canonical if isinstance(spec, StudentSpec) else spec, {}))


def digest(of: Identity) -> str:
    """The SHA-256 of an identity, in hexadecimal."""
    return hashlib.sha256(json.dumps(of, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def group(of: Identity) -> str:
    """The same for all trials that differ in their seed alone."""
    return digest({**of, "spec": {field: value for field, value in of["spec"].items() if field != "seed"}})


def renewed(kept: Identity) -> Identity:
    """An identity as this version of the program writes it: fields that were added since have their defaults.

    Raises:
        UsageError: Its spec is no longer valid.
        KeyError: It is none.
    """
    requires = {f"@{number}": renewed(need) for number, need in enumerate(kept["needs"])}
    return identity(parse(kept["spec"]), requires)
