"""What a run will cost, without running it."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from tekapctl import models
from tekapctl.distill.methods.crd.crd import CRDSpec
from tekapctl.errors import failures_in_words
from tekapctl.models.network import macs, parameters
from tekapctl.spec import RunSpec, StudentSpec
from tekapctl.store.home import Home
from tekapctl.train import trained
from tekapctl.train.teacher_statistics import images_asked

_BACKWARD = 2
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True)
class Cost:
    """An estimate of a run's cost.

    Attributes:
        parameters: Parameters of the learner.
        macs: Multiply-accumulates of the learner's forward pass for one image.
        teacher_macs: The teacher's, or all teachers'; None without one.
        train_images: Images of the training set.
        steps_per_epoch: Optimiser steps an epoch.
        steps: Optimiser steps in all.
        total_macs: Multiply-accumulates of the whole run's networks, backward passes included; what losses and learned
            views multiply is not counted.
        memory_bytes: Weights, gradients, momentum, data set and memory banks, and the activations of a batch, at most.
    """

    parameters: int
    macs: int
    teacher_macs: int | None
    train_images: int
    steps_per_epoch: int
    steps: int
    total_macs: float
    memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


@failures_in_words("estimating the run")
def estimate(spec: RunSpec, home: Home) -> Cost:
    """Estimate a run's cost; needs neither the data set nor the teacher's weights to be there.

    Raises:
        UsageError: The teacher is a run or a file that does not exist.
    """
    shape = spec.data.shape(home.datasets)
    learner = models.build(spec.network, shape.classes, shape.channels, spec.model_args)
    image = (shape.channels, shape.height, shape.width)
    teachers = []
    if isinstance(spec, StudentSpec):
        for name in (spec.teacher, *spec.ensemble):
            if models.is_known(name):
                arguments = spec.teacher_args if name == spec.teacher else {}
                teachers.append(models.build(name, shape.classes, shape.channels, arguments))
            else:
                reference = trained.find(home, name, data=spec.data)
                teachers.append(trained.load(reference, model=spec.teacher_model, arguments=spec.teacher_args).network)
    count = max(1, round(shape.train_images * spec.data.kept(home.datasets)))
    steps = -(-count // spec.batch_size)
    learner_macs = macs(learner, image)
    teacher_macs = sum(macs(teacher, image) for teacher in teachers) if teachers else None
    views = 2 if isinstance(spec, StudentSpec) and spec.requires.strong_view else 1
    an_image = views * ((1 + _BACKWARD) * learner_macs + (teacher_macs or 0))
    an_epoch = count * an_image + shape.test_images * learner_macs
    asked = images_asked(spec, count) * (teacher_macs or 0) if isinstance(spec, StudentSpec) else 0
    return Cost(
        parameters=parameters(learner),
        macs=learner_macs,
        teacher_macs=teacher_macs,
        train_images=count,
        steps_per_epoch=steps,
        steps=steps * spec.total_epochs,
        total_macs=float(an_epoch * spec.total_epochs + asked),
        memory_bytes=_memory(spec, learner, teachers, image, count, home),
    )


def _memory(
    spec: RunSpec,
    learner: models.Network,
    teachers: list[models.Network],
    image: tuple[int, int, int],
    count: int,
    home: Home,
) -> int:
    shape, floats = spec.data.shape(home.datasets), 4
    channels, height, width = image
    padded = channels * (height + 2 * spec.data.padding) * (width + 2 * spec.data.padding)
    total = 0 if spec.data.streams(home.datasets) else count * padded + shape.test_images * channels * height * width
    total += floats * (3 * parameters(learner) + sum(map(parameters, teachers)))
    total += (
        floats
        * spec.batch_size
        * (_activations(learner, image) + sum(_activations(teacher, image) // 8 for teacher in teachers))
    )
    method = getattr(spec, "method", None)
    if isinstance(method, CRDSpec):
        entries = method.negatives if method.memory == "queue" else count
        total += len(teachers) * floats * 2 * entries * method.embedding_width
        total += floats * 2 * spec.batch_size * (2 * entries + 3 * method.negatives)
    return total


def _activations(network: models.Network, image: tuple[int, int, int]) -> int:
    """Numbers that the backward pass of one image keeps: the outputs of all modules without children."""
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
