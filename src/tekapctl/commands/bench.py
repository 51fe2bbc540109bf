"""Measures the steps of a run without running it."""

import itertools
import logging
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tekapctl import data, models
from tekapctl.data.batches import Batch, Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.device import autocast, describe, resolve_device, resolve_precision, synchronize
from tekapctl.distill.objective import Distillation
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.network import Requires, of_batch
from tekapctl.randomness import generator
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec
from tekapctl.store.home import Home
from tekapctl.timing import StepClock, no_clock
from tekapctl.train.build import assemble
from tekapctl.train.evaluation import predict
from tekapctl.train.source import find_teacher
from tekapctl.train.teacher import CachedTeacher, LiveTeacher
from tekapctl.train.trained import Reference, Trained
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)

_WARM_UP = 3
_MOST_STAND_IN_BYTES = 2**30


@dataclass(frozen=True)
class Benchmark:
    """What the steps of a run cost; times are in seconds.

    Attributes:
        networks: Teacher and student.
        device: Where they compute.
        teacher_precision: Precision of the teacher's passes.
        student_precision: Precision of the student's passes.
        steps: How many steps were measured.
        step_seconds: Median time of a step, on a GPU the mean.
        phases: Mean time of each phase of a step, in steps that wait for the device after each.
        bare_seconds: Median time of a live teacher's forward and a student's forward and backward pass, and no more.
        images_per_second: Training images a second.
        peak_memory_bytes: The most memory in use at once.
        peak_memory_of: Whose memory: the device's, or that of the whole process.
        run_seconds: Estimate for the whole run, tests after each epoch included.
        stand_ins: What random numbers stood in for.
    """

    networks: str
    device: str
    teacher_precision: str
    student_precision: str
    steps: int
    step_seconds: float
    phases: dict[str, float]
    bare_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    peak_memory_of: str
    run_seconds: float
    stand_ins: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@failures_in_words("measuring the steps")
def measure_steps(
    spec: StudentSpec,
    home: Home,
    steps: int,
) -> Benchmark:
    """Measure some steps of a run; nothing is kept but, if the spec wants it, cached knowledge of their batches.

    Args:
        spec: The run's spec.
        home: Where teachers and data sets are.
        steps: Steps to measure.

    Raises:
        UsageError: Teacher or data do not fit, or the device is not there.
    """
    if spec.ensemble:
        raise UsageError("bench measures one teacher at a time.", "Give a single --teacher.")
    device = resolve_device(
        spec.device,
    )
    stand_ins: list[str] = []
    teacher, spec = _teacher(spec, home, stand_ins)
    splits = _splits(spec, home, teacher.network.in_channels, stand_ins)
    with tempfile.TemporaryDirectory() as scratch:
        # What a network with random weights says is not to stay in the cache.
        kept = Home(Path(scratch)) if stand_ins else home
        trainer = assemble(spec, splits, [teacher], device, kept)
        return _measure(spec, trainer, teacher, steps, tuple(stand_ins))


@failures_in_words("measuring the steps")
def measure_alone(
    spec: TeacherSpec,
    home: Home,
    steps: int,
) -> float:
    """Seconds that a run without a teacher takes, estimated from some of its steps; nothing is kept.

    Args:
        spec: The run's spec.
        home: Where data sets are.
        steps: Steps to measure.

    Raises:
        UsageError: The data do not fit, or the device is not there.
    """
    device = resolve_device(
        spec.device,
    )
    trainer = assemble(spec, _splits(spec, home, None, []), [], device, home)
    trainer.network.train()
    batches = _batches(trainer)
    _seconds_a_step(trainer, batches, _WARM_UP)
    step = _seconds_a_step(trainer, batches, steps)
    test = _test_seconds(trainer, len(trainer.test_batches.image_set))
    return spec.total_epochs * (len(trainer.train_batches) * step + test)


def _measure(
    spec: StudentSpec, trainer: Trainer, teacher: Trained, steps: int, stand_ins: tuple[str, ...]
) -> Benchmark:
    device = trainer.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    objective = trainer.objective
    assert isinstance(objective, Distillation)
    if isinstance(objective.teacher, CachedTeacher):
        # Steps are measured twice on a device that computes by itself, and none of them may ask the live teacher.
        for batch in itertools.islice(_batches(trainer), _WARM_UP + 2 * steps):
            objective.teacher(batch)
    trainer.network.train()
    asked = resolve_precision(spec.precision, device, teacher.network, trains=False)
    live = objective.teacher.live if isinstance(objective.teacher, CachedTeacher) else objective.teacher
    assert isinstance(live, LiveTeacher)
    step_seconds, bare = _step_and_bare_seconds(trainer, live, steps)
    phases = _phase_seconds(trainer, steps)
    peak, peak_of = _peak_memory(device)
    test = _test_seconds(trainer, len(trainer.test_batches.image_set))
    return Benchmark(
        networks=f"{teacher.model} > {spec.student}",
        device=describe(device),
        teacher_precision=str(asked).removeprefix("torch."),
        student_precision=str(trainer.precision).removeprefix("torch."),
        steps=steps,
        step_seconds=step_seconds,
        phases=phases,
        bare_seconds=bare,
        images_per_second=min(spec.batch_size, len(trainer.train_batches.image_set)) / step_seconds,
        peak_memory_bytes=peak,
        peak_memory_of=peak_of,
        run_seconds=spec.total_epochs * (len(trainer.train_batches) * step_seconds + test),
        stand_ins=stand_ins,
    )


def _teacher(
    spec: StudentSpec,
    home: Home,
    stand_ins: list[str],
) -> tuple[Trained, StudentSpec]:
    try:
        return find_teacher(spec, home)
    except UsageError:
        if not models.is_known(spec.teacher):
            raise
    stand_ins.append("teacher")
    logger.info(f"no trained {spec.teacher} for {spec.data.name} is here: one with random weights stands in for it")
    shape = spec.data.shape(home.datasets)
    network = models.build(spec.teacher, shape.classes, shape.channels, spec.teacher_args).eval()
    name = f"random {spec.teacher}"
    digest = f"{spec.teacher}".encode().hex().ljust(64, "0")[:64]
    return Trained(network, spec.teacher, None, None, digest, Reference(name, home.root, name)), spec


def _splits(
    spec: RunSpec,
    home: Home,
    channels: int | None,
    stand_ins: list[str],
) -> Splits:
    try:
        return data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=channels)
    except UsageError:
        if spec.data.folder is not None:
            raise
    stand_ins.append("data set")
    logger.info(f"the data set {spec.data.name} is not here: random images of its shape stand in for it")
    shape = spec.data.shape(home.datasets)

    def part(count: int) -> ImageSet:
        most = max(1, _MOST_STAND_IN_BYTES // (shape.channels * shape.height * shape.width))
        count = min(count, most)
        size = (count, shape.channels, shape.height, shape.width)
        source = generator(torch.device("cpu"), 0, "bench")
        return ImageSet(
            torch.randint(256, size, dtype=torch.uint8, generator=source),
            torch.arange(count) % shape.classes,
            tuple(str(number) for number in range(shape.classes)),
            (0.5,) * shape.channels,
            (0.25,) * shape.channels,
        )

    train = part(max(shape.classes, round(shape.train_images * spec.data.kept(home.datasets))))
    test = part(shape.test_images)
    return (
        Splits(train, test) if channels is None else Splits(train.with_channels(channels), test.with_channels(channels))
    )


def _batches(trainer: Trainer) -> Iterator[Batch]:
    strong = trainer.objective.requires.strong_view
    epochs = (trainer.train_batches.epoch(epoch, strong=strong) for epoch in itertools.count())
    return trainer.marked(itertools.chain.from_iterable(epochs))


def _seconds_a_step(trainer: Trainer, batches: Iterator[Batch], steps: int) -> float:
    """Mean time of some steps, which wait for the device only at the end, as those of a run."""
    synchronize(trainer.device)
    began = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        trainer.step(batch)
    synchronize(trainer.device)
    return (time.perf_counter() - began) / steps


def _step_and_bare_seconds(trainer: Trainer, live: LiveTeacher, steps: int) -> tuple[float, float]:
    """Steps and bare passes in turn, so that whatever else the machine does slows both."""
    batches = _batches(trainer)
    probe = next(_batches(trainer))
    requires = Requires(strong_view=trainer.objective.requires.strong_view)

    def passes() -> None:
        live(probe)
        with autocast(trainer.device, trainer.precision):
            said = of_batch(trainer.network.knowledge, trainer.network.normalize, probe, requires)
        trainer.network.zero_grad(set_to_none=True)
        views = [view.logits.float() for view in (said, said.strong) if view is not None]
        torch.stack([F.cross_entropy(logits, probe.labels) for logits in views]).sum().backward()

    def timed(work: Callable[[], object]) -> float:
        synchronize(trainer.device)
        began = time.perf_counter()
        work()
        synchronize(trainer.device)
        return time.perf_counter() - began

    pairs = [(timed(lambda: trainer.step(next(batches))), timed(passes)) for _ in range(_WARM_UP + steps)]
    step, bare = (statistics.median(times) for times in zip(*pairs[_WARM_UP:], strict=True))
    if trainer.device.type != "cpu":
        step = _seconds_a_step(trainer, batches, steps)  # a run does not wait for the device after each step
    return step, bare


def _phase_seconds(trainer: Trainer, steps: int) -> dict[str, float]:
    clock = StepClock(trainer.device)
    trainer.clock = trainer.learning.clock = trainer.objective.clock = clock
    batches = _batches(trainer)
    began = time.perf_counter()
    for _ in range(steps):
        with clock("batch"):
            batch = next(batches)
        trainer.step(batch)
    total = time.perf_counter() - began
    trainer.clock = trainer.learning.clock = trainer.objective.clock = no_clock
    order = ("batch", "teacher", "views", "TeKAP", "student forward", "method", "backward", "optimiser")
    phases = {name: clock.seconds[name] / steps for name in order if name != "views" or clock.seconds[name]}
    phases["rest"] = total / steps - sum(phases.values())
    return phases


def _test_seconds(trainer: Trainer, images: int) -> float:
    """Time of a test after an epoch, from part of it."""
    sample = trainer.test_batches.image_set
    some = replace(sample, images=sample.images[:1000], labels=sample.labels[:1000])
    batches = Batches(some, 500, device=trainer.device, padding=0, flip=False, seed=0)
    predict(trainer.network, batches, trainer.precision)
    synchronize(trainer.device)
    began = time.perf_counter()
    predict(trainer.network, batches, trainer.precision)[0].sum().item()
    return (time.perf_counter() - began) * images / len(some)


def _peak_memory(device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "the device"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024, "the process"
