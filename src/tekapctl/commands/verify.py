"""Check the files of a run against their checksums and against each other."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.run import WEIGHTS, Run

TOLERANCE = 1e-5
"""Tolerance of the top-1 in the weights' metadata, which has six digits."""


@dataclass(frozen=True)
class Verified:
    """The result of checking a run.

    Attributes:
        run: The run's id.
        status: Its status.
        files: Number of intact files that have a checksum.
        problems: What is wrong; empty if the run is intact.
    """

    run: str
    status: str
    files: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def verify(run: Run) -> Verified:
    """Read all files of a run and check them."""
    checks: list[Callable[[Run], int]] = [_spec, _summary, _metrics, _checksums, _has_all_checksums]
    checks += [partial(_weights, name=name) for name in WEIGHTS.values()]
    checks += [partial(_checkpoint, path=path) for path in sorted(run.checkpoints.glob("*.state"))]
    problems: list[str] = []
    checked = 0
    for check in checks:
        try:
            checked += check(run)
        except TekapctlError as error:
            problems.append(error.problem)
    return Verified(run.id, run.status, checked, tuple(problems))


def _spec(run: Run) -> int:
    if run.kind() is None:
        raise TekapctlError("spec.toml cannot be read, or is not the spec of a teacher or a student.")
    return 0


def _summary(run: Run) -> int:
    if (problem := run.summary_problem()) is not None:
        raise TekapctlError(f"summary.json is damaged: {problem}.")
    return 0


def _metrics(run: Run) -> int:
    path = run.path / "metrics.jsonl"
    if not path.exists():
        if (run.summary() or {}).get("status") == "finished":
            raise TekapctlError("metrics.jsonl is missing.")
        return 0
    try:
        lines = sum(1 for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise TekapctlError(f"metrics.jsonl cannot be read: {error}.") from None
    if damaged := lines - len(run.metrics()):
        raise TekapctlError(f"metrics.jsonl has {damaged} damaged line{'s' if damaged > 1 else ''}.")
    return 0


def _checksums(run: Run) -> int:
    if run.has_damaged_checksums:
        raise TekapctlError("checksums.json is damaged, so that the weights cannot be checked.")
    return 0


def _has_all_checksums(run: Run) -> int:
    """Check that all weights of a finished run have a checksum, and that every file with a checksum exists."""
    known = set(run.checksummed)
    there = {name for name in WEIGHTS.values() if (run.path / name).is_file()}
    if (run.summary() or {}).get("status") == "finished" and (without := there - known):
        raise TekapctlError(f"{' and '.join(sorted(without))} cannot be checked: no checksum of it was found.")
    if gone := {name for name in known if not (run.path / name).is_file()}:
        raise TekapctlError(f"{' and '.join(sorted(gone))} is missing.")
    return 0


def _weights(run: Run, name: str) -> int:
    from tekapctl.store.weights import read_metadata

    summary, path = run.summary() or {}, run.path / name
    is_finished = summary.get("status") == "finished"
    if not path.is_file():
        if is_finished and path == run.weights:
            raise TekapctlError(f"{name} is missing.")
        return 0
    run.check_weights(path)
    stated = _number(read_metadata(path).get("top1"))
    when = next(when for when, file in WEIGHTS.items() if file == name)
    if when == "ema":
        return 1
    expected = summary.get(f"{when}_val_top1", summary.get(f"{when}_top1"))
    if is_finished and (stated is None or expected is None or not abs(stated - expected) <= TOLERANCE):
        raise TekapctlError(f"{name} states another top-1 than the summary.")
    return 1


def _checkpoint(run: Run, path: Path) -> int:
    import torch

    from tekapctl.train import checkpoint

    try:
        checkpoint.read(path, torch.device("cpu"))
    except TekapctlError:
        if not path.exists():
            return 0  # the run is still going and has replaced it by a newer one
        raise
    return 1


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
