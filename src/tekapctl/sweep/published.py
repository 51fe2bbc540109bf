"""The published number of an experiment, where a table has it."""

from functools import cache

from tekapctl.presets import presets
from tekapctl.spec import RunSpec, parse
from tekapctl.sweep.identity import experiment


def published(spec: RunSpec) -> float | None:
    """The published last top-1 in percent of exactly this experiment, whatever its seed; None where none is known."""
    return _known().get(experiment(spec))


@cache
def _known() -> dict[str, float]:
    found = {}
    for preset in presets():
        row = preset.published
        # Sweeps show last epochs' accuracies; the best on the test set does not compare with them.
        if row is not None and row.top1 is not None and row.epoch != "best":
            found[experiment(parse(preset.table))] = row.top1
    return found
