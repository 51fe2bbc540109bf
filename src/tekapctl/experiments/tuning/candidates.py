"""Candidates: the default settings, and settings drawn from the space of a search."""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.quasirandom import SobolEngine

from tekapctl.errors import UsageError
from tekapctl.experiments.identity import experiment
from tekapctl.experiments.tuning.space import Axis, Choices, changed, in_short, value_at
from tekapctl.randomness import derive
from tekapctl.spec import StudentSpec

logger = logging.getLogger(__name__)

DEFAULT = "default settings"
_ATTEMPTS = 32
"""Points drawn per candidate, at most: some are not valid, or the same as earlier ones."""


@dataclass(frozen=True)
class Candidate:
    """Settings to try.

    Attributes:
        number: 0 for the default settings.
        settings: The values of the fields that are searched.
        spec: The run with these settings.
    """

    number: int
    settings: Mapping[str, Any]
    spec: StudentSpec

    @property
    def described(self) -> str:
        """The settings in words."""
        return in_short(self.settings) if self.number else DEFAULT

    @property
    def label(self) -> str:
        """A distinct label."""
        return f"{self.number}: {self.described}" if self.number else DEFAULT


def draw(axes: Sequence[Axis], spec: StudentSpec, count: int) -> list[Candidate]:
    """The default settings, and up to `count` distinct others.

    They are points of a Sobol sequence that is scrambled by the spec's seed, so that more candidates begin with the
    same ones. A space that is no larger than `count` is enumerated.

    Raises:
        UsageError: No point of the space is a valid spec that differs from the default settings.
    """
    found = [Candidate(0, {axis.field: value_at(spec, axis.field) for axis in axes}, spec)]
    known = {experiment(spec)}
    refused: list[str] = []
    for settings in itertools.islice(_points(axes, spec.seed, count), _ATTEMPTS * count):
        if len(found) > count:
            break
        try:
            candidate = Candidate(len(found), settings, changed(spec, settings))
        except UsageError as error:
            refused.append(f"{in_short(settings)}: {error.problem}")
            continue
        if (key := experiment(candidate.spec)) not in known:
            known.add(key)
            found.append(candidate)
    if len(found) == 1:
        why = f" The first one: {refused[0]}" if refused else ""
        raise UsageError(f"No settings of the search are valid and differ from the defaults.{why}", "Change `search`.")
    if refused:
        logger.info(f"left out {len(refused)} settings that are not valid together, such as {refused[0]}")
    if len(found) <= count:
        logger.info(f"the search has only {len(found) - 1} distinct settings besides the defaults")
    return found


def _points(axes: Sequence[Axis], seed: int, count: int) -> Iterator[dict[str, Any]]:
    """Values by field, of one point after the other."""
    lists = [axis.values.values for axis in axes if isinstance(axis.values, Choices)]
    if len(lists) == len(axes) and math.prod(map(len, lists)) <= count + 1:  # the defaults may be among them
        for values in itertools.product(*lists):
            yield {axis.field: value for axis, value in zip(axes, values, strict=True)}
        return
    engine = SobolEngine(len(axes), scramble=True, seed=derive(seed, "tuning"))
    while True:
        for place in engine.draw(64, dtype=torch.float64).tolist():
            yield {axis.field: axis.values.at(where) for axis, where in zip(axes, place, strict=True)}
