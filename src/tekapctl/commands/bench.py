"""Benchmark some steps of a run: time per phase, speed, memory, and an estimate for the whole run."""

import itertools
import logging
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn import functional as F

from tekapctl import data, models
from tekapctl.commands.cost import untrained
from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.data.image_set import ImageSet, Splits
from tekapctl.device import autocast, describe, resolve_device, synchronize
from tekapctl.distillation.objective import Distillation
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models.knowledge import Requires, of_batch
from tekapctl.randomness import generator
from tekapctl.spec import RunSpec, StudentSpec, TeacherSpec
from tekapctl.store.home import Home
from tekapctl.timing import StepClock, no_clock
from tekapctl.train.build import assemble
from tekapctl.train.evaluation import predict
from tekapctl.train.images import with_unlabelled
from tekapctl.train.references import Reference
from tekapctl.train.source import find_teacher
from tekapctl.train.teacher import CachedTeacher, LiveTeacher, live_teacher
from tekapctl.train.trained import Trained
from tekapctl.train.trainer import Trainer

logger = logging.getLogger(__name__)

_WARMUP_STEPS = 3
_MAX_RANDOM_BYTES = 2**30


@dataclass(frozen=True)
class Benchmark:
    """Measurements of a run's steps; times are in seconds.

    The time of a step is the median on a CPU and the mean on other devices; that of a phase is a mean, with the device
    synchronised after each. `network_seconds` is the median of a live teacher's forward pass and a student's forward
    and backward pass alone, and `run_seconds` an estimate for the whole run, with a test after each epoch. Memory is
    that of `device` or `process`. `stand_ins` are the unavailable parts that random ones replaced: `teacher`,
    `dataset`.
    """

    teacher: str
    student: str
    device: str
    teacher_precision: str
    student_precision: str
    steps: int
    step_seconds: float
    phase_seconds: dict[str, float]
    network_seconds: float
    images_per_second: float
    peak_memory_bytes: int
    peak_memory_scope: str
    run_seconds: float
    stand_ins: tuple[str, ...]


@failures_in_words("the benchmark")
def measure_steps(spec: StudentSpec, home: Home, steps: int) -> Benchmark:
    """Benchmark the steps of a distillation. Nothing is stored, except cached teacher outputs if the spec uses a cache.

    Raises:
        UsageError: Teacher and data do not fit together, or the device is unavailable.
    """
    if spec.ensemble:
        raise UsageError("Only runs with one teacher can be benchmarked.", "Name a single teacher.")
    device = resolve_device(spec.device)
    spec = _untrained(spec)
    stand_ins: list[str] = []
    teacher, spec = _teacher(spec, home, stand_ins)
    splits = _splits(spec, home, teacher.network.in_channels, stand_ins)
    if not stand_ins:
        splits = with_unlabelled(spec, splits, teacher, device)
    with tempfile.TemporaryDirectory() as scratch:
        # Outputs of a random network must not stay in the cache.
        trainer = assemble(spec, splits, [teacher], device, Home(Path(scratch)) if stand_ins else home)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        objective = trainer.objective
        assert isinstance(objective, Distillation)
        live = objective.teacher
        if isinstance(live, CachedTeacher):
            # No measured step may run the live teacher. On asynchronous devices steps are measured twice.
            for batch in itertools.islice(_batches(trainer), _WARMUP_STEPS + 2 * steps):
                live(batch)
        live = live_teacher(live)
        assert isinstance(live, LiveTeacher)
        trainer.network.train()
        step_seconds, network_seconds = _step_and_network_seconds(trainer, live, steps)
        phase_seconds = _phase_seconds(trainer, steps)
        peak_memory_bytes, peak_memory_scope = _peak_memory(device)
        return Benchmark(
            teacher=teacher.model,
            student=spec.student,
            device=describe(device),
            teacher_precision=str(live.precision).removeprefix("torch."),
            student_precision=str(trainer.precision).removeprefix("torch."),
            steps=steps,
            step_seconds=step_seconds,
            phase_seconds=phase_seconds,
            network_seconds=network_seconds,
            images_per_second=min(spec.batch_size, len(trainer.train_batches.image_set)) / step_seconds,
            peak_memory_bytes=peak_memory_bytes,
            peak_memory_scope=peak_memory_scope,
            run_seconds=_run_seconds(spec, trainer, step_seconds),
            stand_ins=tuple(stand_ins),
        )


@failures_in_words("the benchmark")
def measure_alone(spec: TeacherSpec, home: Home, steps: int) -> float:
    """Estimate the seconds that a run without a teacher takes. Nothing is stored.

    Raises:
        UsageError: The data do not fit, or the device is unavailable.
    """
    device = resolve_device(spec.device)
    spec = _untrained(spec)
    trainer = assemble(spec, _splits(spec, home, None, []), [], device, home)
    trainer.network.train()
    batches = _batches(trainer)
    _mean_step_seconds(trainer, batches, _WARMUP_STEPS)
    return _run_seconds(spec, trainer, _mean_step_seconds(trainer, batches, steps))


@dataclass(frozen=True)
class Measured:
    """What a run takes on this machine, by a few of its steps: time, and peak memory of `device` or `process`."""

    seconds: float
    memory_bytes: int
    memory_scope: str


_FEW_STEPS = 3


def measure(spec: TeacherSpec | StudentSpec, home: Home) -> Measured:
    """Measure a few steps of a run. Where the dataset or a teacher is missing, random ones are used.

    Raises:
        UsageError: The run has several teachers, or its parts do not fit together.
    """
    if isinstance(spec, StudentSpec):
        found = measure_steps(spec, home, _FEW_STEPS)
        return Measured(found.run_seconds, found.peak_memory_bytes, found.peak_memory_scope)
    seconds = measure_alone(spec, home, _FEW_STEPS)
    return Measured(seconds, *_peak_memory(resolve_device(spec.device)))


S = TypeVar("S", TeacherSpec, StudentSpec)


def _untrained(spec: S) -> S:
    """The spec with random weights in place of a library's pretrained ones, which are as fast."""
    return spec.model_copy(update={"model_args": dict(untrained(spec.network, spec.model_args))})


def _teacher(spec: StudentSpec, home: Home, stand_ins: list[str]) -> tuple[Trained, StudentSpec]:
    is_random = spec.teacher_args.get("pretrained") is False
    try:
        if not is_random:
            return find_teacher(spec, home)
    except UsageError:
        if not models.is_known(spec.teacher):
            raise
    stand_ins.append("teacher")
    if not is_random:
        logger.info(f"no trained {spec.teacher} for {spec.data.name} is available: using random weights instead")
    shape = spec.data.shape(home.datasets)
    network = models.build(spec.teacher, shape.classes, shape.channels, spec.teacher_args).eval()
    name = f"random {spec.teacher}"
    digest = spec.teacher.encode().hex().ljust(64, "0")[:64]
    return Trained(network, spec.teacher, None, None, digest, Reference(name, home.root, name)), spec


def _splits(spec: RunSpec, home: Home, channels: int | None, stand_ins: list[str]) -> Splits:
    try:
        return data.load(spec.data, home.datasets, seed=spec.batch_seed, in_channels=channels)
    except UsageError:
        if spec.data.folder is not None:
            raise
    stand_ins.append("dataset")
    logger.info(f"the dataset {spec.data.name} is not available: using random images of its shape instead")
    shape = spec.data.shape(home.datasets)

    def part(count: int) -> ImageSet:
        count = min(count, max(1, _MAX_RANDOM_BYTES // (shape.channels * shape.height * shape.width)))
        size = (count, shape.channels, shape.height, shape.width)
        source = generator(torch.device("cpu"), 0, "bench")
        return ImageSet(
            torch.randint(256, size, dtype=torch.uint8, generator=source),
            torch.arange(count) % shape.classes,
            tuple(str(number) for number in range(shape.classes)),
            (0.5,) * shape.channels,
            (0.25,) * shape.channels,
        )

    train = part(max(shape.classes, spec.data.images_to_train(home.datasets)))
    test = part(shape.test_images)
    if channels is not None:
        train, test = train.with_channels(channels), test.with_channels(channels)
    return Splits(train, test)


def _batches(trainer: Trainer) -> Iterator[Batch]:
    return itertools.chain.from_iterable(map(trainer.batches, itertools.count()))


def _mean_step_seconds(trainer: Trainer, batches: Iterator[Batch], steps: int) -> float:
    """Mean time of some steps, synchronising the device only at the end, as in a run."""

    def run() -> None:
        for batch in itertools.islice(batches, steps):
            trainer.take(batch)

    return _timed(trainer.device, run) / steps


def _timed(device: torch.device, work: Callable[[], object]) -> float:
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def _step_and_network_seconds(trainer: Trainer, live: LiveTeacher, steps: int) -> tuple[float, float]:
    """Median times of steps and of bare passes, in turn, so that other load on the machine slows both alike."""
    batches = _batches(trainer)
    probe = next(_batches(trainer))
    requires = Requires(strong_view=trainer.objective.requires.strong_view)

    def passes() -> None:
        live(probe)
        with autocast(trainer.device, trainer.precision):
            outputs = of_batch(trainer.network.knowledge, trainer.network.normalize, probe, requires)
        trainer.network.zero_grad(set_to_none=True)
        views = [view.logits.float() for view in (outputs, outputs.strong) if view is not None]
        torch.stack([F.cross_entropy(logits, probe.labels) for logits in views]).sum().backward()

    device = trainer.device
    pairs = [
        (_timed(device, lambda: trainer.take(next(batches))), _timed(device, passes))
        for _ in range(_WARMUP_STEPS + steps)
    ]
    step, network = (statistics.median(times) for times in zip(*pairs[_WARMUP_STEPS:], strict=True))
    if trainer.device.type != "cpu":
        step = _mean_step_seconds(trainer, batches, steps)  # a run does not synchronise after each step
    return step, network


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
    order = ("batch", "teacher", "views", "TeKAP", "student forward", "method", "backward", "optimizer")
    phases = {name: clock.seconds[name] / steps for name in order if name != "views" or clock.seconds[name]}
    phases["rest"] = total / steps - sum(phases.values())
    return phases


def _run_seconds(spec: RunSpec, trainer: Trainer, step_seconds: float) -> float:
    """Estimated time of the whole run, with a test after each epoch, which is measured on some of the images."""
    images = trainer.eval_batches.image_set
    some = replace(images, images=images.images[:1000], labels=images.labels[:1000])
    batches = Batches(some, 500, device=trainer.device)
    _, seconds = (
        _timed(trainer.device, lambda: predict(trainer.network, batches, trainer.precision)) for _ in range(2)
    )
    test_seconds = seconds * len(images) / len(some)
    return spec.total_epochs * (len(trainer.train_batches) * step_seconds + test_seconds)


def _peak_memory(device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), "device"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024, "process"
