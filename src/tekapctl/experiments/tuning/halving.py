"""Successive halving: many candidates for few epochs, the best of them for more.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tekapctl.experiments.tuning.space import changed
from tekapctl.settings import Settings
from tekapctl.spec import StudentSpec


@dataclass(frozen=True)
class Rung:
    """A stage of the search.

    Attributes:
        number: Counted from 1.
        candidates: Number of candidates besides the default settings.
        epochs: Epochs of each run.
        seeds: The seeds of each candidate.
    """

    number: int
    candidates: int
    epochs: int
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """Runs with those of the default settings."""
        return (self.candidates + 1) * len(self.seeds)


def shortest(epochs: int, eta: int) -> int:
    """Epochs of the first rung unless they are given: at most three rungs, as shorter runs predict little."""
    return max(1, epochs // eta**2)


def ladder(candidates: int, epochs: int, *, eta: int, min_epochs: int, seed: int, seeds: int) -> list[Rung]:
    """The rungs of a search; from one to the next, candidates fall and epochs rise by the factor `eta`.

    Args:
        candidates: In the first rung, at least 1.
        epochs: In the last rung.
        eta: At least 2.
        min_epochs: In the first rung, at least; from 1 to `epochs`.
        seed: The only seed of all rungs but the last.
        seeds: Number of seeds in the last rung, from `seed` on.
    """
    rungs = 1
    while min_epochs * eta**rungs <= epochs and eta**rungs <= candidates:
        rungs += 1
    return [
        Rung(
            number + 1,
            math.ceil(candidates / eta**number),
            round(epochs / eta ** (rungs - 1 - number)),
            tuple(range(seed, seed + (seeds if number == rungs - 1 else 1))),
        )
        for number in range(rungs)
    ]


def promoted(scores: Mapping[int, float | None], count: int) -> list[int]:
    """The `count` candidates with the highest scores, best first; of equal ones the earlier.

    Candidates without a score, whose training diverged, are never promoted.
    """
    ranked = sorted((-score, number) for number, score in scores.items() if score is not None)
    return [number for _, number in ranked[:count]]


def compressed(spec: StudentSpec, epochs: int) -> StudentSpec:
    """The same run in another number of epochs.

    The schedule keeps its shape: decays are fractions of a run already, and warm-ups, init stages and the pretraining
    of learned views are shortened with the epochs, to one at least.
    """
    factor = epochs / spec.epochs
    fields: dict[str, Any] = {"epochs": epochs}
    for section in ("schedule", "method", "angular"):
        settings = getattr(spec, section)
        assert isinstance(settings, Settings)
        for name in type(settings).model_fields:
            value = getattr(settings, name)
            if name.endswith("_epochs") and isinstance(value, int) and value:
                fields[f"{section}.{name}"] = max(1, round(factor * value))
    return changed(spec, fields)
