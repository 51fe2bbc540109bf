"""Hold our losses, networks and optimisers to files of published numbers.

    python -m conformance.check FILE.json...        in the folder `tests` of a checkout

Prints the largest relative difference of each case, and exits with 1 if one disagrees.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance import cases
from conformance.registry import evaluator
from conformance.vectors import Case, Vectors

TOLERANCE = 1e-4
OF_GRADIENTS = 1e-3
DEEP = ("resnet56", "resnet110", "ResNet50")
"""Networks in which rounding grows, and which are held to the tolerance of gradients."""

cases.load_all()


@dataclass(frozen=True)
class Result:
    """How a case came out.

    Attributes:
        case: Its name.
        worst: The largest difference, as a share of its tolerance.
        difference: The same as a share of the expected value's largest entry.
        where: Of what.
        problem: Why nothing could be compared, if so.
    """

    case: str
    worst: float = 0.0
    difference: float = 0.0
    where: str = ""
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every value is within its tolerance."""
        return not self.problem and self.worst <= 1

    def __str__(self) -> str:
        if self.problem:
            return f"{self.case:<40} FAILS    {self.problem}"
        word = "agrees" if self.agrees else "DIFFERS"
        return f"{self.case:<40} {word:<8} {self.difference:.1e}  {self.where}"


def check(case: Case) -> Result:
    """Compute a case and compare it."""
    compute = evaluator("network" if "models" in case.file.data else case.name)
    if compute is None:
        return Result(case.name, problem="no method of ours is known for it")
    found = []
    try:
        for name, *values in compute(case):
            found += [(name, *each) for each in _compared(case, name, *values)]
    except Exception as error:
        return Result(case.name, problem=f"{type(error).__name__}: {error}")
    missing = _expected(case) - {name for name, *_ in found}
    if missing:
        return Result(case.name, problem=f"not compared: {', '.join(sorted(missing))}")
    name, worst, difference = max(found, key=lambda each: (each[1] != each[1], each[1]))
    return Result(case.name, worst if worst == worst else float("inf"), difference, name)


def _expected(case: Case) -> set[str]:
    names = {name for name in case.tensors if name.startswith("grad_")}
    losses = {"loss" if "loss" in case.scalars else "losses", "first_stage_loss", "view_loss"}
    return names | losses & case.scalars.keys()


def _compared(case: Case, name: str, value: Any, expected: Any = None) -> Iterator[tuple[float, float]]:
    """Differences as shares of the tolerance, and as shares of the largest expected entry."""
    if name in case.scalars.get("zero", ()):
        return
    is_loose = name.startswith("grad_") or case.name in DEEP
    tolerance = OF_GRADIENTS if is_loose else TOLERANCE
    ours = _as_tensor(value)
    if (sampled := case.scalars.get("sampled", {}).get(name)) is not None:
        if list(ours.shape) != sampled["shape"]:
            raise ValueError(f"{name} has shape {list(ours.shape)}, not {sampled['shape']}")
        difference = abs(ours.norm().item() / sampled["norm"] - 1)
        yield difference / tolerance, difference
        ours = ours.flatten()[:: sampled["step"]]
    theirs = _as_tensor(getattr(case, name) if expected is None else expected)
    if ours.shape != theirs.shape:
        raise ValueError(f"{name} has shape {list(ours.shape)}, not {list(theirs.shape)}")
    difference = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()
    yield difference / tolerance, difference


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, list):
        return torch.stack([_as_tensor(each) for each in value])
    return torch.as_tensor(value).detach().double()


def main(paths: list[str]) -> int:
    """Check files; returns the exit code."""
    results: list[Result] = []
    for path in paths:
        vectors = Vectors(Path(path))
        for name in vectors.names:
            results.append(check(vectors.case(name)))
            print(results[-1], flush=True)
    agreeing = sum(result.agrees for result in results)
    print(f"{agreeing} of {len(results)} agree")
    return 0 if agreeing == len(results) > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
