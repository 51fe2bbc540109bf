"""The published number of an experiment, where a table has it."""

from functools import cache

from tekapctl.presets import presets
from tekapctl.spec import RunSpec, parse
from tekapctl.sweep.identity import group, identity


def published(spec: RunSpec) -> float | None:
    """The published top-1 in percent of exactly this experiment, whatever its seed; None where no table has it."""
    return _known().get(group(identity(spec, {})))


@cache
def _known() -> dict[str, float]:
    found = {}
    for preset in presets():
        if preset.published is not None:
            found[group(identity(parse(preset.table), {}))] = preset.published
    return found
