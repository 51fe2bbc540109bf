"""Computes something with a run's networks and losses and leaves the run as it was."""

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

from tekapctl.data.batches import Batch, Batches
from tekapctl.device import autocast
from tekapctl.distill.objective import Distillation, Objective
from tekapctl.distributed.communicator import Communicator
from tekapctl.errors import failures_in_words
from tekapctl.models import Network
from tekapctl.models.network import Knowledge, Level
from tekapctl.train.diversity import Examined, Figures, of_augmented, of_teacher, of_views
from tekapctl.train.step import Metrics, TrainStep


def copied(objective: Objective, comm: Communicator) -> Objective:
    """An objective with parameters and buffers of its own, under the same teachers and augmented teachers.

    Args:
        objective: The objective.
        comm: The processes of the run, which are no copies either.
    """
    shared = {id(each): each for member in objective.distillations for each in (member.teacher, member.tekap)}
    return copy.deepcopy(objective, {**shared, id(comm): comm})


@contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Give a network its buffers back, such as its batch norms' statistics."""
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
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Give PyTorch's global generators their states back."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        yield


PREFIX = "diagnosis_"
IMAGES = 2000
"""Test images at most, evenly spread over the set."""
BATCHES = 4
"""Training batches whose gradients are looked at: the first of the epoch."""
_TOGETHER = 500


@dataclass(frozen=True)
class Asked:
    """A teacher that is asked about the test images.

    Attributes:
        network: The teacher, on its device.
        precision: Precision of its passes.
    """

    network: Network
    precision: torch.dtype


class Diagnosis:
    """Looks at a run after each epoch, and leaves all of it as it was.

    Args:
        network: The student.
        objective: Its loss.
        teachers: The teachers, in the order of the objective's distillations.
        train: The training batches.
        test: The test batches.
        precision: Precision of the student's passes.
    """

    def __init__(
        self,
        network: Network,
        objective: Objective,
        teachers: Sequence[Asked],
        train: Batches,
        test: Batches,
        precision: torch.dtype,
    ) -> None:
        self.objective = objective
        self.teachers = teachers
        self.train_batches = train
        self.test_batches = test
        self._gradients = StudentGradients(network, objective, train.device, precision, train.comm)
        self._known: list[Examined] = []

    @property
    def has_something(self) -> bool:
        """Whether there is anyone to look at."""
        members = self.objective.distillations
        spec = members[0].tekap.spec
        return any(member.views for member in members) or bool(spec.logit.teachers or spec.feature.teachers)

    def __call__(self, epoch: int) -> Metrics:
        """The metrics of an epoch that was trained just now, nothing where nothing is distilled; waits for the device.

        Of several teachers they are the means.

        Args:
            epoch: Counted from 0.

        Raises:
            TekapctlError: The device's memory does not suffice.
        """
        began = time.perf_counter()
        members = self.objective.distillations
        for member in members:
            member.init_stage = self.objective.init_stage  # an ensemble tells them when they are next asked
        smaller = "Train without --diagnose, or with a smaller --batch-size."
        with failures_in_words("the diagnosis", smaller=smaller), random_numbers_kept(self.train_batches.device):
            found = self._predictions(members, epoch) | self._gradients_of(members, epoch)
        values = torch.stack([value.float() for value in found.values()]).tolist() if found else []
        # JSON knows no others; where a number is none, as the variance of a single view, there is nothing to log.
        metrics: Metrics = {
            f"{PREFIX}{name}": value for name, value in zip(found, values, strict=True) if math.isfinite(value)
        }
        return {**metrics, f"{PREFIX}seconds": time.perf_counter() - began} if metrics else {}

    @torch.no_grad()
    def _predictions(self, members: Sequence[Distillation], epoch: int) -> Figures:
        step = -1 - epoch  # no step of training: the noise is none that the student has seen
        found: list[Figures] = []
        for number, member in enumerate(members):
            own: Figures = {}
            for level in member.levels:
                figures = of_augmented(self._examined(number), member.tekap, level, step, self.train_batches.batch_size)
                own |= _named(level, figures)
            if member.views is not None and member.needs_teacher:
                views = copy.deepcopy(member.views)  # whose statistics are touched
                own |= _named("views", of_views(self._examined(number), views, step))
            if own:
                found.append(own | _named("teacher", of_teacher(self._examined(number))))
        return _means(found)

    def _gradients_of(self, members: Sequence[Distillation], epoch: int) -> Figures:
        is_taught = any(m.levels or (m.views is not None and m.needs_teacher) for m in members)
        if not (self.objective.trains_learner and is_taught):
            return {}
        strong = self.objective.requires.strong_view
        batches = self.train_batches.epoch(epoch, 0, BATCHES, strong=strong)
        return _means([self._gradients.figures(batch, members[0].levels) for batch in batches])

    def _examined(self, number: int) -> Examined:
        """What a teacher says of the test images; asked once."""
        for teacher in self.teachers[len(self._known) : number + 1]:
            self._known.append(self._ask(teacher))
        return self._known[number]

    def _ask(self, teacher: Asked) -> Examined:
        test = self.test_batches
        count = min(IMAGES, len(test.image_set))
        chosen = torch.arange(count) * len(test.image_set) // count
        logits, embeddings = [], []
        with autocast(test.device, teacher.precision):
            for index in chosen.split(_TOGETHER):
                images = teacher.network.normalize(test.at(index, torch.full_like(index, test.centre)))
                said = teacher.network.knowledge(images, feature_maps=False)
                logits.append(said.logits.float())
                embeddings.append(said.embedding.float())
        labels = test.labels[chosen.to(test.device)]
        return Examined(Knowledge(torch.cat(logits), torch.cat(embeddings)), labels, teacher.network.classifier_layer)


def _named(what: str, figures: Figures) -> Figures:
    return {f"{what}_{name}": value for name, value in figures.items()}


def _means(found: Sequence[Figures]) -> Figures:
    """Means by name."""
    names: list[str] = list(found[0]) if found else []
    return {name: _mean([each[name] for each in found]) for name in names}


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


class StudentGradients:
    """Gradients of a loss by the student's parameters; the student and its loss are left as they were.

    The process's random numbers are seeded anew.

    Args:
        network: The student, in the mode that it trains in.
        objective: Its loss; copies of it are asked, so that memories and statistics stay as they are.
        device: Where both are.
        precision: Precision of the student's passes.
        comm: The processes, each of which has its share of a batch.
    """

    def __init__(
        self, network: Network, objective: Objective, device: torch.device, precision: torch.dtype, comm: Communicator
    ) -> None:
        self.network = network
        self.objective = objective
        self.device = device
        self.precision = precision
        self.comm = comm

    def figures(self, batch: Batch, levels: Sequence[Level]) -> Figures:
        """What a batch's gradient g is made of.

        - `LEVEL_noise_share`: `norm(g - g0) / norm(g)`, with g0 the gradient where the level's noise weighs 0 and all
          else is equal: weights, memories, negatives, dropout.
        - `label_cosine`: the cosine of g and the gradient of the cross-entropy alone, where that is a part of the loss.

        Args:
            batch: What the loss is of.
            levels: Those whose noise is looked at.
        """
        found: Figures = {}
        whole, *of_labels = self._of(batch)
        for level in levels:
            due = (whole - self._of(batch, without=level)[0]).norm()
            found[f"{level}_noise_share"] = torch.where(due == 0, due, due / whole.norm())
        for each in of_labels:
            found["label_cosine"] = F.cosine_similarity(whole, each, dim=0)
        return found

    def _of(self, batch: Batch, without: Level | None = None) -> list[Float[Tensor, " parameters"]]:
        """The loss's gradient, each in one row and averaged over the processes.

        The cross-entropy's gradient follows it, but where the noise of a level is left out.
        """
        objective = copied(self.objective, self.comm)
        if without is not None:
            for member in objective.distillations:
                member.tekap = member.tekap.with_spec(member.tekap.spec.without_noise(without))
        learning = TrainStep(self.network, objective, self.device, self.precision, compiled=False)
        with buffers_kept(self.network):
            torch.manual_seed(batch.step)  # networks from elsewhere drop the same each time
            parts, _ = learning(batch)
            found = [self._gradient(torch.stack(list(parts.values())).sum())]
            if without is None and "cross_entropy" in parts:
                found.append(self._gradient(parts["cross_entropy"]))
        self.comm.average(found)
        return found

    def _gradient(self, loss: Tensor) -> Tensor:
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        return torch.cat([each.flatten() for each in found])
