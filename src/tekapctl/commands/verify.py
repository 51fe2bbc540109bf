"""Check the files of a run against their checksums and against each other."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tekapctl.errors import TekapctlError
from tekapctl.store.run import WEIGHTS, Run

TOLERANCE = 1e-5
"""Tolerance of the top-1 in the weights' metadata, which has six digits."""


@dataclass(frozen=True)
class Verified:
    """The result of checking a run: its status, the number of intact files with a checksum, and what is wrong."""

    run: str
    status: str
    files: int
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def verify(run: Run) -> Verified:
    """Read all files of a run and check them."""
    problems, intact = list(_problems(run)), 0
    weights = [run.path / name for name in WEIGHTS.values() if (run.path / name).is_file()]
    for path in [*weights, *sorted(run.checkpoints.glob("*.state"))]:
        try:
            intact += _check_weights(run, path) if path in weights else _check_checkpoint(path)
        except TekapctlError as error:
            problems.append(error.problem)
    return Verified(run.id, run.status, intact, tuple(problems))


def _problems(run: Run) -> Iterator[str]:
    """What is wrong with a run's text files, and which of its files are missing."""
    is_finished = (run.summary() or {}).get("status") == "finished"
    if run.kind() is None:
        yield "spec.toml cannot be read, or is not the spec of a teacher or a student."
    if (problem := run.summary_problem()) is not None:
        yield f"summary.json is damaged: {problem}."
    metrics = run.path / "metrics.jsonl"
    if metrics.exists():
        try:
            lines = sum(1 for line in metrics.read_text(encoding="utf-8").splitlines() if line.strip())
            if damaged := lines - len(run.metrics()):
                yield f"metrics.jsonl has {damaged} damaged line{'s' if damaged > 1 else ''}."
        except (OSError, UnicodeDecodeError) as error:
            yield f"metrics.jsonl cannot be read: {error}."
    elif is_finished:
        yield "metrics.jsonl is missing."
    if run.has_damaged_checksums:
        yield "checksums.json is damaged, so that the weights cannot be checked."
    known = set(run.checksummed)
    there = {name for name in WEIGHTS.values() if (run.path / name).is_file()}
    if is_finished and (without := there - known):
        yield f"{' and '.join(sorted(without))} cannot be checked: no checksum of it was found."
    if gone := {name for name in known if not (run.path / name).is_file()}:
        yield f"{' and '.join(sorted(gone))} is missing."
    if is_finished and run.weights.name not in there | known:
        yield f"{run.weights.name} is missing."


def _check_weights(run: Run, path: Path) -> int:
    from tekapctl.store.weights import read_metadata

    run.check_weights(path)
    stated, summary = read_metadata(path).get("top1"), run.summary() or {}
    if summary.get("status") == "finished":
        which = next(which for which, name in WEIGHTS.items() if name == path.name)
        expected = summary.get(f"{which}_val_top1", summary.get(f"{which}_top1"))
        try:
            is_same = abs(float(stated or "nan") - float("nan" if expected is None else expected)) <= TOLERANCE
        except (TypeError, ValueError):
            is_same = False
        if not is_same:
            raise TekapctlError(f"{path.name} states another top-1 than the summary.")
    return 1


def _check_checkpoint(path: Path) -> int:
    import torch

    from tekapctl.train import checkpoint

    try:
        checkpoint.read(path, torch.device("cpu"))
    except TekapctlError:
        if not path.exists():
            return 0  # the run is still going and has replaced it by a newer one
        raise
    return 1
