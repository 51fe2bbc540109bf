"""Imports the runs of a bundle: everything is checked before the first of them appears."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tekapctl.errors import TekapctlError, UsageError
from tekapctl.store.atomic import atomic_write, explain, format_bytes, make_folder, sha256
from tekapctl.store.bundle import Manifest, RunEntry, read_manifest, unpack
from tekapctl.store.run import IMPORTED, MARK, WEIGHTS, Run
from tekapctl.store.runs import Runs, missing_teachers

Outcome = Literal["imported", "completed", "identical"]


@dataclass(frozen=True)
class Imported:
    """What became of a run of a bundle.

    Attributes:
        run: Its id.
        outcome: `completed` if the run was there without files that the bundle has, such as its weights; `identical` if
            all of it was there.
        left_out: Weights that it is still without.
        missing_teachers: Runs that taught it and are not there.
    """

    run: str
    outcome: Outcome
    left_out: tuple[str, ...]
    missing_teachers: tuple[str, ...]


def import_bundle(bundle: Path, runs: Runs) -> list[Imported]:
    """Import the runs of a bundle. If anything is wrong with one of them, none is imported.

    Raises:
        UsageError: The bundle is damaged or hostile, or a different run of the same id is there.
        TekapctlError: There is not enough disk space, or the folder is not writable.
    """
    manifest = read_manifest(bundle)
    new: dict[str, list[str]] = {}
    for entry in manifest.runs:
        present = Run(runs.folder / entry.run)
        new[entry.run] = _missing(present, entry, bundle) if present.path.is_dir() else list(entry.files)
    wanted = frozenset(f"{run}/{name}" for run, names in new.items() for name in names)
    _check_space(manifest, wanted, runs.folder)
    with runs.stage() as stage:
        try:
            unpack(bundle, manifest, stage, wanted)
        except OSError as error:
            raise explain(error, runs.folder) from None
        for entry in manifest.runs:
            _check(entry, Run(stage / entry.run), Run(runs.folder / entry.run), bundle)
        outcomes = {entry.run: _install(entry, new[entry.run], stage, runs) for entry in manifest.runs}
    return [_result(Run(runs.folder / run), outcome, runs) for run, outcome in outcomes.items()]


def _missing(present: Run, entry: RunEntry, bundle: Path) -> list[str]:
    """The files of an entry that a run does not have.

    Raises:
        UsageError: It has others of the same name.
    """
    if present.status == "running":
        raise UsageError(f"The run {present.id} of {bundle} is running here.", "Stop it, or wait for it.")
    missing = [name for name in entry.files if not (present.path / name).is_file()]
    differing = [name for name in entry.files if name not in missing and not _is_same(present.path / name, entry, name)]
    # Checkpoints are replaced while a run trains, its other files are not.
    differing += [name for name in missing if name not in WEIGHTS.values() and not name.startswith("checkpoints/")]
    if (present.path / "summary.json").is_file() and "summary.json" not in entry.files:
        differing.append("summary.json")
    if differing:
        raise UsageError(
            f"A different run of the id {present.id} is here: its {differing[0]} is not that of {bundle}.",
            f"Export the others without it, or remove the run here with `tekapctl runs rm {present.id}`.",
        )
    return missing


def _is_same(path: Path, entry: RunEntry, name: str) -> bool:
    expected = entry.files[name]
    return path.stat().st_size == expected.size and sha256(path) == expected.sha256


def _check_space(manifest: Manifest, wanted: frozenset[str], folder: Path) -> None:
    needed = sum(entry.size for path, entry in manifest.files.items() if path in wanted)
    free = shutil.disk_usage(make_folder(folder)).free
    if needed > free:
        raise TekapctlError(
            f"The runs take {format_bytes(needed)}, and {format_bytes(free)} are free.",
            "Free space, or export fewer of them.",
        )


def _check(entry: RunEntry, staged: Run, present: Run, bundle: Path) -> None:
    """Check that the files of a run fit together, those that are here already included."""
    if present.path.is_dir():
        for name in WEIGHTS.values():
            if (staged.path / name).is_file():
                present.check_weights(staged.path / name)
        return
    problem = staged.summary_problem()
    if staged.kind() is None:
        problem = "its spec cannot be read"
    elif MARK in entry.files and not staged.is_original:
        problem = f"its {MARK} is that of another run"
    elif problem is not None:
        problem = f"its summary is damaged: {problem}"
    if problem is not None:
        raise UsageError(f"The run {entry.run} of {bundle} is damaged: {problem}.", "Export the run again.")
    for name in WEIGHTS.values():
        if name in entry.files:
            staged.check_weights(staged.path / name)


def _install(entry: RunEntry, new: list[str], stage: Path, runs: Runs) -> Outcome:
    present, staged = Run(runs.folder / entry.run), Run(stage / entry.run)
    if not present.path.is_dir():
        _write_note(staged)
        runs.add(staged.path)
        return "imported"
    if not new:
        return "identical"
    with present.lock():
        for name in new:
            make_folder((present.path / name).parent)
            (staged.path / name).replace(present.path / name)
        if (present.path / IMPORTED).is_file():
            _write_note(present)
    return "completed"


def _write_note(run: Run) -> None:
    """Write which weights a run was imported without."""
    had = {*run.checksummed, *([run.weights.name] if run.status == "finished" else ())}
    left_out = [name for name in WEIGHTS.values() if name in had and not (run.path / name).is_file()]
    atomic_write(run.path / IMPORTED, json.dumps({"left_out": left_out}).encode() + b"\n")


def _result(run: Run, outcome: Outcome, runs: Runs) -> Imported:
    there = {each.id for each in runs.all()}
    return Imported(run.id, outcome, tuple(sorted(run.left_out)), tuple(missing_teachers(run, there)))
