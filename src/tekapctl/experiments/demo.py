"""A small comparison on the embedded digits: a student without a teacher, with KD, and with KD and TeKAP."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from tekapctl.distillation.tekap import NO_TEKAP
from tekapctl.experiments.comparison.statistics import paired
from tekapctl.spec import StudentSpec, TeacherSpec, parse
from tekapctl.store.home import Home
from tekapctl.train.callbacks import Callback
from tekapctl.train.run import execute

TEACHER, STUDENT = "resnet20", "resnet8"
TEACHER_EPOCHS = 30
_SHARED: dict[str, Any] = {"batch_size": 32, "optimizer": {"learning_rate": 0.01}}
"""The published learning rate of 0.05 makes runs on so few images diverge."""


class Arm(NamedTuple):
    """One way of training the student: its title in the table, and fields of its spec beside the shared ones."""

    title: str
    options: dict[str, Any]


ARMS = (
    Arm("no teacher", {"kind": "teacher", "model": STUDENT}),
    Arm("KD", {"method": "kd", "tekap": NO_TEKAP}),
    Arm("KD + TeKAP", {"method": "kd"}),
)


class Result(NamedTuple):
    """The runs of one arm: the summary of each seed's."""

    arm: Arm
    summaries: list[dict[str, Any]]

    @property
    def accuracies(self) -> list[float]:
        """Top-1 after the last epoch, one per seed."""
        return [summary["last_top1"] for summary in self.summaries]

    @property
    def seconds(self) -> float:
        """Mean training time of a run."""
        return statistics.mean(float(summary["seconds"]) for summary in self.summaries)


Watch = Callable[[str], AbstractContextManager[Callback]]
"""Makes the callback that shows the progress of the run with a title."""


def demonstrate(
    home: Home, *, seeds: int, epochs: int, fraction: float, watch: Watch
) -> tuple[dict[str, Any], list[Result]]:
    """Train a teacher on all digits and students on a fraction of them.

    Returns the teacher's summary and each arm's results.
    """
    spec = parse({"kind": "teacher", "model": TEACHER, "data": "digits", "epochs": TEACHER_EPOCHS, **_SHARED})
    with watch(f"teacher {TEACHER}") as callback:
        teacher = execute(spec, home, callback)

    def runs(arm: Arm) -> Iterator[dict[str, Any]]:
        for seed in range(seeds):
            with watch(f"{STUDENT}, {arm.title}, seed {seed}") as callback:
                yield execute(arm_spec(arm, teacher["run"], seed, epochs, fraction), home, callback)

    return teacher, [Result(arm, list(runs(arm))) for arm in ARMS]


def arm_spec(arm: Arm, teacher: str, seed: int, epochs: int, fraction: float) -> TeacherSpec | StudentSpec:
    """The spec of one run of an arm."""
    data = {"name": "digits", "train_fraction": fraction}
    taught = {} if "kind" in arm.options else {"student": STUDENT, "teacher": teacher}
    return parse({**_SHARED, "data": data, "epochs": epochs, "seed": seed, "name": "demo", **taught, **arm.options})


def verdict(one: Result, other: Result) -> str:
    """A sentence on the paired differences between two arms."""
    found = paired(*([100 * value for value in result.accuracies] for result in (one, other)))
    names, points = f"{one.arm.title} vs. {other.arm.title}", f"{found.mean:+.2f} points"
    if found.ci_low is None or found.ci_high is None:
        return f"{names}: {points}, too few seeds for an interval."
    interval = f"[{found.ci_low:+.2f}, {found.ci_high:+.2f}]"
    if found.ci_low <= 0 <= found.ci_high:
        return f"{names}: {points} {interval}: no clear difference."
    return f"{names}: {points} {interval}: clearly {'better' if found.mean > 0 else 'worse'}."
