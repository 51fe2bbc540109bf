"""Hold our losses, networks and optimizers to files of published numbers.

    python -m conformance.check FILE.json...        in the folder `tests` of a checkout

Prints the largest relative difference of each case, and exits with 1 if one disagrees. A case agrees if all of its
entries are accounted for: read as inputs, compared with ours, or known to say nothing about numbers (`IGNORED`).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conformance import cases
from conformance.registry import evaluator
from conformance.vectors import Case, Vectors

TOLERANCE = 1e-4
OF_GRADIENTS = 1e-3
"""Also of weights after steps of training, which add gradients up."""

IGNORED = {
    "source": "where the numbers are from",
    "note": "prose",
    "model": "prose: how the linear model of DOT's cases is built",
    "classifier": "prose: which classifier computed student_logits",
    "positive": "prose: what the first column of the contrasted samples is",
    "view_mode": "prose: whether views have batch statistics, which the case's name says",
    "loss_parts": "prose: which parts the loss has",
    "standardised": "prose where it is a text; read where it is a truth value",
    "other_precision": "how far the published code is from itself in another precision",
    "sampled": "which tensors are stored in part: how they are compared",
    "zero": "gradients that are 0 but for rounding, and not stored",
    "filled": "seeds of modules, each of which must be read",
    "published_*": "weights of terms that are not in the loss",
    "weight": "the method's weight, which is not in the loss where the case does not read it",
    "hint_layer": "which of a network's maps is compared; the case holds that map alone",
    "projector": "the kind of connector, whose parameters are loaded by name and shape",
    "connector": "the same in words",
    "connectors": "the same in words",
    "kernel_size": "the connectors' kernel, whose shape is loaded",
    "conv_kernel": "the same",
    "sample_labels": "labels from which the contrasted samples were drawn",
}
"""Entries that need not be compared, and why."""
MODES = {"connector_mode", "paraphraser_mode", "translator_mode", "teacher_mode", "student_mode"}
"""Texts that begin with a mode of a module; those that a case does not read must be the one that we run in."""
RESULTS = ("grad_*", "loss", "loss_*", "losses", "losses_*", "*_loss", "normalizer_*", "weights", "*_after")
"""Entries that must be compared even if a case reads them."""

cases.load_all()


@dataclass(frozen=True)
class Result:
    """How a case came out.

    Attributes:
        case: Its name.
        worst: The largest difference, as a share of its tolerance.
        difference: The same as a share of the expected value's largest entry.
        where: Of what.
        problem: Why it could not be compared, if so.
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
    compute = evaluator("network" if case.file.of_models else case.name)
    if compute is None:
        return Result(case.name, problem="no method of ours is known for it")
    found = []
    try:
        for name, *values in compute(case):
            found += [(name, *each) for each in _compared(case, name, *values)]
        missing = _not_compared(case, {name for name, *_ in found})
    except Exception as error:
        return Result(case.name, problem=_in_words(error))
    if missing or not found:
        return Result(case.name, problem=f"not compared: {', '.join(missing) or 'anything'}")
    name, worst, difference = max(found, key=lambda each: (each[1] != each[1], each[1]))
    return Result(case.name, worst if worst == worst else float("inf"), difference, name)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _not_compared(case: Case, compared: set[str]) -> list[str]:
    """Entries of a case that were neither compared nor read, and need to be."""
    read = case.scalars.read | case.tensors.read
    found = []
    for name in [*case.scalars, *case.tensors]:
        is_result = any(fnmatchcase(name, pattern) for pattern in RESULTS)
        if name in compared or (name in read and not is_result):
            continue
        value = case.expected(name)
        if any(fnmatchcase(name, pattern) for pattern in IGNORED) and not (
            name == "standardised" and not isinstance(value, str)
        ):
            continue
        if name in MODES and isinstance(value, str) and _is_ours(name, value):
            continue
        found.append(name)
    sampled = case.scalars.get("sampled", {})
    labels = case.scalars.get("filled", {})
    return [
        *found,
        *(f"sampled {name}" for name in sampled if name not in case.tensors),
        *(f"filled {label}" for label in labels if label not in case.filled_read),
    ]


def _is_ours(name: str, mode: str) -> bool:
    """Whether a module runs in the mode of a text; teachers' maps are inputs, whatever computed them."""
    return name == "teacher_mode" or mode.startswith(("train", "first stage train", "eval outside get_feat_modules"))


def _compared(case: Case, name: str, value: Any, expected: Any = None) -> Iterator[tuple[float, float]]:
    """Differences as shares of the tolerance, and as shares of the largest expected entry."""
    if name in case.scalars.get("zero", ()):
        return
    tolerance = OF_GRADIENTS if name.startswith("grad_") or name.endswith("_after") else TOLERANCE
    ours = _as_tensor(value)
    if (sampled := case.scalars.get("sampled", {}).get(name)) is not None:
        if list(ours.shape) != sampled["shape"]:
            raise ValueError(f"{name} has shape {list(ours.shape)}, not {sampled['shape']}")
        difference = abs(ours.norm().item() / sampled["norm"] - 1)
        yield difference / tolerance, difference
        ours = ours.flatten()[:: sampled["step"]]
    theirs = _as_tensor(case.expected(name) if expected is None else expected)
    if ours.shape != theirs.shape:
        raise ValueError(f"{name} has shape {list(ours.shape)}, not {list(theirs.shape)}")
    difference = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()
    yield difference / tolerance, difference


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, list):
        return torch.stack([_as_tensor(each) for each in value])
    return torch.as_tensor(value).detach().double()


def results_of(path: Path) -> Iterator[Result]:
    """The results of all cases of a file; a file that cannot be read is one that fails."""
    try:
        vectors = Vectors(path)
        names, inputs = vectors.names, vectors.inputs
        if not names:
            raise ValueError("it has no cases")
    except Exception as error:
        yield Result(path.name, problem=_in_words(error))
        return
    for name in names:
        try:
            case = vectors.case(name)
        except Exception as error:
            yield Result(name, problem=_in_words(error))
        else:
            yield check(case)
    for name in inputs:
        if name not in vectors.inputs_read:
            yield Result(name, problem="not compared: no case reads it")


def main(paths: list[str]) -> int:
    """Check files; returns the exit code."""
    if not paths or "--help" in paths or "-h" in paths:
        print((__doc__ or "").strip())
    results: list[Result] = []
    for path in paths:
        if path not in ("--help", "-h"):
            for result in results_of(Path(path)):
                results.append(result)
                print(result, flush=True)
    agreeing = sum(result.agrees for result in results)
    print(f"{agreeing} of {len(results)} agree")
    return 0 if agreeing == len(results) > 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
