"""Diagnose a run after each epoch: diversity of its augmented teachers and gradients of its loss.

Nothing here changes the run: it ends in the same bits with and without a diagnosis.
"""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tekapctl.data.batch import Batch
from tekapctl.data.batches import Batches
from tekapctl.device import autocast
from tekapctl.distillation.objective import Distillation, Objective
from tekapctl.distributed.communicator import Communicator
from tekapctl.errors import failures_in_words
from tekapctl.models import Network
from tekapctl.models.knowledge import Knowledge, Level
from tekapctl.train.diversity import (
    TeacherOutputs,
    TensorMetrics,
    augmented_diversity,
    teacher_accuracy,
    view_diversity,
)
from tekapctl.train.step import Metrics, TrainStep


def copy_objective(objective: Objective, comm: Communicator) -> Objective:
    """Copy an objective's parameters and buffers; the copy shares teachers, augmented teachers and communicator."""
    shared = {id(each): each for member in objective.distillations for each in (member.teacher, member.tekap)}
    return copy.deepcopy(objective, {**shared, id(comm): comm})


@contextmanager
def preserve_buffers(network: nn.Module) -> Iterator[None]:
    """Restore a network's buffers, such as batch-norm statistics, on exit."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            setattr(module, name, buffer.copy_(value))


@contextmanager
def preserve_rng(device: torch.device) -> Iterator[None]:
    """Restore PyTorch's global generators on exit."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        yield


PREFIX = "diagnosis_"
IMAGES = 2000
"""Maximum number of test images, evenly spread over the set."""
BATCHES = 4
"""Number of training batches to compute gradients for: the first of the epoch."""
_BATCH_SIZE = 500


@dataclass(frozen=True)
class DiagnosedTeacher:
    """A teacher to run on the test images."""

    network: Network
    precision: torch.dtype


class Diagnosis:
    """Computes diagnostic metrics of a run after each epoch; teachers are ordered as the objective's distillations."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        teachers: Sequence[DiagnosedTeacher],
        train: Batches,
        test: Batches,
        precision: torch.dtype,
    ) -> None:
        self.objective = objective
        self.teachers = teachers
        self.train_batches = train
        self.test_batches = test
        self._gradients = StudentGradients(network, objective, train.device, precision, train.comm)
        self._outputs: list[TeacherOutputs] = []

    @property
    def has_metrics(self) -> bool:
        """Whether there are augmented teachers or views to diagnose."""
        members = self.objective.distillations
        spec = members[0].tekap.spec
        return any(member.views for member in members) or bool(spec.logit.teachers or spec.feature.teachers)

    def __call__(self, epoch: int) -> Metrics:
        """The metrics of the epoch (from 0) that was just trained, averaged over teachers; empty if there are none.

        Raises:
            TekapctlError: The device runs out of memory.
        """
        began = time.perf_counter()
        members = self.objective.distillations
        for member in members:
            member.init_stage = self.objective.init_stage  # an ensemble sets it in its forward pass
        smaller = "Train without `diagnose`, or with a smaller `batch_size`."
        with failures_in_words("the diagnosis", smaller=smaller), preserve_rng(self.train_batches.device):
            found = self._diversity(members, epoch) | self._gradient_metrics(members, epoch)
        values = torch.stack([value.float() for value in found.values()]).tolist() if found else []
        # Metrics are JSON, which has no NaN: the variance of a single view is left out.
        metrics: Metrics = {
            f"{PREFIX}{name}": value for name, value in zip(found, values, strict=True) if math.isfinite(value)
        }
        return {**metrics, f"{PREFIX}seconds": time.perf_counter() - began} if metrics else {}

    @torch.no_grad()
    def _diversity(self, members: Sequence[Distillation], epoch: int) -> TensorMetrics:
        step = -1 - epoch  # never a training step, so the noise is new to the student
        found: list[TensorMetrics] = []
        for number, member in enumerate(members):
            own: TensorMetrics = {}
            for level in member.levels:
                batch_size = self.train_batches.batch_size
                metrics = augmented_diversity(self._teacher_outputs(number), member.tekap, level, step, batch_size)
                own |= _prefixed(level, metrics)
            if member.views is not None and member.needs_teacher:
                views = copy.deepcopy(member.views)  # their running statistics change
                own |= _prefixed("views", view_diversity(self._teacher_outputs(number), views, step))
            if own:
                found.append(own | _prefixed("teacher", teacher_accuracy(self._teacher_outputs(number))))
        return _means(found)

    def _gradient_metrics(self, members: Sequence[Distillation], epoch: int) -> TensorMetrics:
        is_taught = any(m.levels or (m.views is not None and m.needs_teacher) for m in members)
        if not (self.objective.trains_learner and is_taught):
            return {}
        strong = self.objective.requires.strong_view
        batches = self.train_batches.epoch(epoch, 0, BATCHES, strong=strong)
        return _means([self._gradients.metrics(batch, members[0].levels) for batch in batches])

    def _teacher_outputs(self, number: int) -> TeacherOutputs:
        """A teacher's outputs for the test images, computed once."""
        for teacher in self.teachers[len(self._outputs) : number + 1]:
            self._outputs.append(self._forward(teacher))
        return self._outputs[number]

    def _forward(self, teacher: DiagnosedTeacher) -> TeacherOutputs:
        test = self.test_batches
        count = min(IMAGES, len(test.image_set))
        chosen = torch.arange(count) * len(test.image_set) // count
        logits, embeddings = [], []
        with autocast(test.device, teacher.precision):
            for index in chosen.split(_BATCH_SIZE):
                images = teacher.network.normalize(test.at(index, torch.full_like(index, test.centre)))
                knowledge = teacher.network.knowledge(images, feature_maps=False)
                logits.append(knowledge.logits.float())
                embeddings.append(knowledge.embedding.float())
        labels = test.labels[chosen.to(test.device)]
        knowledge = Knowledge(torch.cat(logits), torch.cat(embeddings))
        return TeacherOutputs(knowledge, labels, teacher.network.classifier_layer)


def _prefixed(prefix: str, metrics: TensorMetrics) -> TensorMetrics:
    return {f"{prefix}_{name}": value for name, value in metrics.items()}


def _means(found: Sequence[TensorMetrics]) -> TensorMetrics:
    """Means by name."""
    return {name: torch.stack([each[name] for each in found]).mean() for name in (found[0] if found else ())}


class StudentGradients:
    """Gradients of a loss with respect to a student's parameters, in training mode.

    Changes nothing but the global random state: the objective is copied for each gradient, so that memories and
    statistics stay as they are. Each process has a part of the batch.
    """

    def __init__(
        self, network: Network, objective: Objective, device: torch.device, precision: torch.dtype, comm: Communicator
    ) -> None:
        self.network = network
        self.objective = objective
        self.device = device
        self.precision = precision
        self.comm = comm

    def metrics(self, batch: Batch, levels: Sequence[Level]) -> TensorMetrics:
        """Metrics of a batch's gradient g.

        - `LEVEL_noise_share`: `norm(g - g0) / norm(g)`, where g0 is the gradient with the level's noise weight set to 0
          and all else equal: weights, memories, negatives, dropout.
        - `label_cosine`: cosine similarity of g and the gradient of the cross-entropy, if the loss includes it.
        """
        found: TensorMetrics = {}
        total, *cross_entropy = self._of(batch)
        for level in levels:
            difference = (total - self._of(batch, without=level)[0]).norm()
            found[f"{level}_noise_share"] = torch.where(difference == 0, difference, difference / total.norm())
        for gradient in cross_entropy:
            found["label_cosine"] = F.cosine_similarity(total, gradient, dim=0)
        return found

    def _of(self, batch: Batch, without: Level | None = None) -> list[Float[Tensor, " parameters"]]:
        """The loss's gradient, flattened and averaged over the processes, followed by that of its cross-entropy.

        If the noise of a level is left out, so is the gradient of the cross-entropy.
        """
        objective = copy_objective(self.objective, self.comm)
        if without is not None:
            for member in objective.distillations:
                member.tekap = member.tekap.with_spec(member.tekap.spec.without_noise(without))
        train_step = TrainStep(self.network, objective, self.device, self.precision, compiled=False)
        with preserve_buffers(self.network):
            torch.manual_seed(batch.step)  # external models draw the same dropout each time
            parts, _ = train_step(batch)
            found = [self._gradient(torch.stack(list(parts.values())).sum())]
            if without is None and "cross_entropy" in parts:
                found.append(self._gradient(parts["cross_entropy"]))
        self.comm.all_reduce_mean(found)
        return found

    def _gradient(self, loss: Tensor) -> Tensor:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in gradients])
