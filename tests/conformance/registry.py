"""Which function computes which cases."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from conformance.vectors import Case

Evaluator = Callable[[Case], Iterator[tuple[Any, ...]]]
"""Computes what a case expects: the value's name, ours, and the expected one where the case has none of that name."""
_EVALUATORS: dict[str, Evaluator] = {}


def evaluates(*patterns: str) -> Callable[[Evaluator], Evaluator]:
    """Register a function for the cases whose names match."""

    def register(function: Evaluator) -> Evaluator:
        _EVALUATORS.update(dict.fromkeys(patterns, function))
        return function

    return register


def evaluator(name: str) -> Evaluator | None:
    """The function for a case: that of the longest pattern that its name matches."""
    fitting = [pattern for pattern in _EVALUATORS if fnmatchcase(name, pattern)]
    return _EVALUATORS[max(fitting, key=len)] if fitting else None
