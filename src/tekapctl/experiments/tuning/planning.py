"""Plan a search: the candidates, the rungs, the seeds, and the sweep of each stage."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tekapctl.errors import UsageError
from tekapctl.experiments.sweeps import plan as sweeps
from tekapctl.experiments.tuning.candidates import Candidate, draw
from tekapctl.experiments.tuning.halving import Rung, compressed, ladder, shortest
from tekapctl.experiments.tuning.space import Axis, changed
from tekapctl.spec import StudentSpec, to_dict
from tekapctl.store.home import Home
from tekapctl.train import references

VAL_FRACTION = 0.1
"""Held out for validation where the spec holds nothing out."""


@dataclass(frozen=True)
class Tuning:
    """A search that is ready to run.

    Attributes:
        name: Its name: that of its folder among the sweeps, and in the ids of its runs.
        spec: The default settings, with the teacher that was found.
        axes: What is searched.
        candidates: The default settings first; all hold out the same validation images.
        rungs: The stages of the search.
        confirm_seeds: Fresh seeds, on which the winner and the default settings are compared.
    """

    name: str
    spec: StudentSpec
    axes: Sequence[Axis]
    candidates: Sequence[Candidate]
    rungs: Sequence[Rung]
    confirm_seeds: tuple[int, ...]

    @property
    def val_fraction(self) -> float:
        """Fraction of the training images that is held out in the search."""
        return self.candidates[0].spec.data.val_fraction

    @property
    def runs(self) -> int:
        """Runs of all stages, unless a stage has fewer candidates than planned."""
        return sum(rung.runs for rung in self.rungs) + 2 * len(self.confirm_seeds)

    def best(self, winner: Candidate) -> StudentSpec:
        """The spec of a candidate with the validation images and the name of the default settings."""
        best = changed(self.spec, winner.settings) if winner.number else self.spec
        if best.data.absolute_folder is None:
            return best
        return best.model_copy(update={"data": best.data.model_copy(update={"folder": best.data.absolute_folder})})

    def plan(self, candidates: Iterable[Candidate], epochs: int, seeds: Sequence[int], datasets: Path) -> sweeps.Plan:
        """The runs of a stage as a sweep, with a group for each candidate."""
        tables = []
        for candidate in candidates:
            table = to_dict(compressed(candidate.spec, epochs))
            tables.append({"label": candidate.label, **{field: table[field] for field in table if field != "seed"}})
        grid = {"candidate": tables, "seed": list(seeds)}
        return sweeps.plan({"name": self.name, "grid": grid}, datasets, by_network=False)


def prepare(
    spec: StudentSpec,
    home: Home,
    axes: Sequence[Axis],
    *,
    trials: int = 27,
    eta: int = 3,
    min_epochs: int | None = None,
    seeds: int = 3,
    confirm_seeds: int = 5,
    is_dry: bool = False,
) -> Tuning:
    """Plan a search.

    Args:
        spec: The default settings; its seed is the first one, and that of the candidates.
        home: The home folder.
        axes: What to search.
        trials: Candidates besides the default settings.
        eta: Of this many candidates, one is promoted to the next rung, with this many times the epochs.
        min_epochs: Epochs of the first rung; a share of 1 / eta^2 if None.
        seeds: Seeds per candidate in the last rung.
        confirm_seeds: Fresh seeds for the winner and the default settings.
        is_dry: Accept a missing teacher.

    Raises:
        UsageError: A setting does not fit the spec, or the teacher does not exist.
    """
    if min_epochs is not None and min_epochs > spec.epochs:
        raise UsageError(
            f"`min_epochs` is {min_epochs}, and a whole run has {spec.epochs} epochs.", "Use fewer `min_epochs`."
        )
    if spec.name is not None and not re.fullmatch(sweeps.NAME, spec.name):
        raise UsageError(
            f"The name {spec.name!r} cannot be that of a folder.",
            "Begin with a letter or digit, and use letters, digits, dots, underscores and hyphens in `name`.",
        )
    pinned = _with_found_teachers(spec, home, is_dry=is_dry)
    asked = {
        "spec": to_dict(spec),
        "axes": {axis.field: axis.values.to_dict() for axis in axes},
        "numbers": [trials, eta, min_epochs, seeds, confirm_seeds],
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    name = spec.name or f"tune-{digest[:8]}"
    fields: dict[str, Any] = {"name": name, "data.val_fraction": spec.data.val_fraction or VAL_FRACTION}
    candidates = draw(axes, changed(pinned, fields), trials)
    rungs = ladder(
        len(candidates) - 1,
        spec.epochs,
        eta=eta,
        min_epochs=shortest(spec.epochs, eta) if min_epochs is None else min_epochs,
        seed=spec.seed,
        seeds=seeds,
    )
    first = spec.seed + seeds
    return Tuning(name, pinned, axes, candidates, rungs, tuple(range(first, first + confirm_seeds)))


def _with_found_teachers(spec: StudentSpec, home: Home, *, is_dry: bool) -> StudentSpec:
    """The spec with the teachers that its names stand for now: one that finishes later must not replace them."""
    try:
        names = [
            references.find(home, one, data=spec.data, kind="teacher").name for one in (spec.teacher, *spec.ensemble)
        ]
    except UsageError:
        if is_dry:
            return spec
        raise
    return spec.model_copy(update={"teacher": names[0], "ensemble": tuple(names[1:])})
