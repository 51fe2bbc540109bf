"""What `--diagnose` logs: how much augmented teachers differ, and how much of the student's gradient their noise is."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tekapctl.data.batches import Batches
from tekapctl.engine.device import autocast
from tekapctl.engine.diversity import Examined, Figures, of_augmented, of_teacher, of_views
from tekapctl.engine.epoch_sums import Metrics
from tekapctl.engine.isolation import random_numbers_kept
from tekapctl.engine.noise_share import StudentGradients
from tekapctl.engine.objective import Distillation, Objective
from tekapctl.failures import failures_in_words
from tekapctl.knowledge import Knowledge
from tekapctl.models import Network

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
        self._gradients = StudentGradients(network, objective, train.device, precision, train.team)
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
            member.first_stage = self.objective.first_stage  # an ensemble tells them when they are next asked
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
            if member.views is not None and member.asks_teacher:
                views = copy.deepcopy(member.views)  # whose statistics are touched
                own |= _named("views", of_views(self._examined(number), views, step))
            if own:
                found.append(own | _named("teacher", of_teacher(self._examined(number))))
        return _means(found)

    def _gradients_of(self, members: Sequence[Distillation], epoch: int) -> Figures:
        is_taught = any(m.levels or (m.views is not None and m.asks_teacher) for m in members)
        if not (self.objective.trains_learner and is_taught):
            return {}
        strong = self.objective.needs.strong_view
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
                said = teacher.network.knowledge(images, stages=False)
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
