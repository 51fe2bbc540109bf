"""Run folders that are not what they seem; the home is the folder beside the working folder."""

import shutil
from pathlib import Path

from reliability.inputs import maker


def newest(here: Path) -> Path:
    return max(path for path in (here.parent / "home" / "runs").iterdir() if path.name[0].isdigit())


@maker
def copied_run(here: Path) -> None:
    """Copies of the newest run under names that sort behind it."""
    run = newest(here)
    for name in ("best-so-far", "99999999-999999-x", "20991231-000000-copy", "zzz", "20260230-000000-x"):
        shutil.copytree(run, run.with_name(name))


@maker
def linked_run(here: Path) -> None:
    """A run whose folder is elsewhere."""
    run = newest(here)
    shutil.copytree(run, here / "elsewhere")
    run.with_name("20200101-000000-linked").symlink_to(here / "elsewhere")


@maker
def another_student(here: Path) -> None:
    """The newest run, interrupted, with another student in its spec."""
    run = newest(here)
    (run / "summary.json").unlink()
    spec = run / "spec.toml"
    spec.write_text(spec.read_text().replace('student = "resnet8"', 'student = "resnet20"'))


@maker
def run_without_metrics(here: Path) -> None:
    """The newest run without its metrics."""
    (newest(here) / "metrics.jsonl").unlink()


@maker
def run_with_an_unreadable_lock(here: Path) -> None:
    """The newest run, unfinished, whose lock not even the superuser can open."""
    run = newest(here)
    (run / "summary.json").unlink()
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(run / ".lock")


@maker
def run_without_checksums(here: Path) -> None:
    """The newest run without its checksums."""
    (newest(here) / "checksums.json").unlink()


@maker
def run_without_best_weights(here: Path) -> None:
    """The newest run without its best epoch's weights."""
    (newest(here) / "best.safetensors").unlink()
