"""Estimate a run's compute and memory without running it."""

from dataclasses import dataclass

import torch

from tekapctl import models
from tekapctl.errors import UsageError, failures_in_words
from tekapctl.models import external
from tekapctl.models.network import macs, parameters
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import references, trained
from tekapctl.train.teacher_statistics import images_asked

_BACKWARD = 2
"""Cost of a backward pass, in forward passes."""
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """A run's estimated cost.

    `macs` are the multiply-accumulates of the student's forward pass per image, `teacher_macs` those of all teachers
    together (None without one), and `total_macs` those of all forward and backward passes, without losses and learned
    views. `memory_bytes` is an upper bound on weights, gradients, momentum, dataset, the method's memory and the
    activations of a batch.
    """

    parameters: int
    macs: int
    teacher_macs: int | None
    train_images: int
    steps_per_epoch: int
    steps: int
    total_macs: float
    memory_bytes: int


@failures_in_words("estimating the run")
def estimate(spec: RunSpec, home: Home) -> Cost:
    """Estimate a run's cost. Needs neither the dataset nor a pretrained teacher's weights.

    Raises:
        UsageError: The teacher is a run or file that does not exist.
    """
    spec = _with_data_of_teacher(spec, home)
    shape = spec.data.shape(home.datasets)
    student = models.build(spec.network, shape.classes, shape.channels, untrained(spec.network, spec.model_args))
    image = (shape.channels, shape.height, shape.width)
    teachers = []
    if isinstance(spec, StudentSpec):
        for name in (spec.teacher, *spec.ensemble):
            if models.is_known(name):
                arguments = untrained(name, spec.teacher_args if name == spec.teacher else {})
                teachers.append(models.build(name, shape.classes, shape.channels, arguments))
            else:
                reference = references.find(home, name, data=spec.data, kind="teacher")
                teachers.append(trained.load(reference, model=spec.teacher_model, arguments=spec.teacher_args).network)
    count = max(1, spec.data.images_to_train(home.datasets))
    steps = -(-count // spec.batch_size)
    student_macs = macs(student, image)
    teacher_macs = sum(macs(teacher, image) for teacher in teachers) if teachers else None
    views = 2 if isinstance(spec, StudentSpec) and spec.requires.strong_view else 1
    image_macs = views * ((1 + _BACKWARD) * student_macs + (teacher_macs or 0))
    epoch_macs = count * image_macs + shape.test_images * student_macs
    statistics_macs = images_asked(spec, count) * (teacher_macs or 0) if isinstance(spec, StudentSpec) else 0
    return Cost(
        parameters=parameters(student),
        macs=student_macs,
        teacher_macs=teacher_macs,
        train_images=count,
        steps_per_epoch=steps,
        steps=steps * spec.total_epochs,
        total_macs=float(epoch_macs * spec.total_epochs + statistics_macs),
        memory_bytes=_memory(spec, student, teachers, count, home),
    )


def _with_data_of_teacher(spec: RunSpec, home: Home) -> RunSpec:
    """The spec with the settings of the dataset that it will take from its teacher, where that is a run."""
    if not isinstance(spec, StudentSpec):
        return spec
    try:
        run = references.find(home, spec.teacher, data=spec.data, kind="teacher").run
    except UsageError:
        return spec  # it is not trained yet, or what is wrong is reported where it is loaded
    return spec if run is None else spec.model_copy(update={"data": spec.data.like(references.data_of_run(run))})


def untrained(name: str, arguments: external.Arguments) -> external.Arguments:
    """Arguments without those for a library's pretrained weights, which are as large as random ones."""
    return external.without_weights(arguments) if name.partition(":")[0] in external.LIBRARIES else arguments


def _memory(spec: RunSpec, student: models.Network, teachers: list[models.Network], count: int, home: Home) -> int:
    shape = spec.data.shape(home.datasets)
    channels, height, width = image = (shape.channels, shape.height, shape.width)
    padded = channels * (height + 2 * spec.data.padding) * (width + 2 * spec.data.padding)
    images = 0 if spec.data.streams(home.datasets) else count * padded + shape.test_images * channels * height * width
    # The student's with gradients and momentum, and their average.
    weights = (4 if spec.ema else 3) * parameters(student) + sum(map(parameters, teachers))
    # A teacher's pass keeps no activations for a backward pass.
    activations = _activations(student, image) + sum(_activations(teacher, image) // 8 for teacher in teachers)
    at_once = -(-spec.batch_size // spec.accumulate)
    # A CUDA graph keeps its memory, and the smaller last batch of an epoch needs its own.
    kept = 2 if spec.graph and spec.device != "cpu" and torch.cuda.is_available() else 1
    total = images + _FLOAT_BYTES * (weights + kept * at_once * activations)
    if isinstance(spec, StudentSpec):
        total += spec.method.memory_bytes(count, spec.batch_size, len(teachers))
    return total


def _activations(network: models.Network, image: tuple[int, int, int]) -> int:
    """Numbers kept for the backward pass of one image: the outputs of all leaf modules."""
    kept = 0

    def count(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        nonlocal kept
        kept += output.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if not list(m.children())]
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, *image))
    finally:
        for hook in hooks:
            hook.remove()
    return kept
